"""Names of tokenizers in files from before a name stood for the codes alone, without the decoder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TypeVar

from ..options import build, to_dict
from ..tokenizer.model import Tokenizer
from .condition_loader import ConditionLoader

T = TypeVar("T")


def present_names(tokenizer: Tokenizer, loaders: Sequence[ConditionLoader] = ()) -> dict[str, str]:
    """Return older name -> present one (`Tokenizer.codes_sha256`) of the tokenizers of a prior and its conditions."""
    own = {id(one): one for one in (tokenizer, *(one for loader in loaders for one in loader.tokenizers()))}
    names = [one.codes_names() for one in own.values()]
    return {older: present for present, *others in names for older in others}


def renamed(config: T, names: Mapping[str, str]) -> T:
    """Return a configuration with present names in place of older ones, also in its parts."""
    if not names:
        return config
    text = json.dumps(to_dict(config))
    for older, present in names.items():
        text = text.replace(older, present)
    return build(type(config), json.loads(text))
