"""The loaders of all conditions, and which of them a run or a trained prior needs.

To add a condition, write its loader here and list it in `LOADERS`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.codes import CacheColumn
from ..data.labels import class_name, number_of
from ..data.source import ImageSource
from ..errors import ConfigError
from ..prior.conditions.features import FeaturesConfig
from ..prior.conditions.label import LabelConfig
from ..prior.conditions.text import TextConfig, caption_bytes
from ..prior.config import PriorConfig
from ..tokenizer.model import Tokenizer
from .condition_loader import ConditionLoader, EncodeCrops, Given, RunData, as_list
from .conditioning_images import ImageLoader
from .text import TextEncoder

logger = logging.getLogger("imgtf")

_SURROGATE = re.compile("[\ud800-\udfff]")
"""What UTF-8 cannot hold. Python puts it in the place of undecodable bytes of the command line."""


class LabelLoader(ConditionLoader):
    """Class labels. A person names classes or gives their numbers; without any, all classes take turns."""

    kind = "label"
    config: LabelConfig

    @classmethod
    def missing(cls, run: RunData) -> str:
        if len(run.train.class_names) > 1:
            return ""
        streamed = "; the classes of a stream are given with --classes" if run.train.stream else ""
        return f"the images have no labels, or only one{streamed}"

    @classmethod
    def from_run(cls, run: RunData) -> LabelLoader:
        return cls(LabelConfig(class_names=run.train.class_names), run.tokenizer)

    def values(self, given: Given) -> list[int]:
        label = given.get("label")
        if label is None:
            return list(range(len(self.config.class_names)))
        return [self._number(one) for one in as_list(label, "label")]

    def _number(self, label: Any) -> int:
        names = self.config.class_names
        label = label.value if isinstance(label, Enum) else label
        whole = isinstance(label, (int, np.integer)) and not isinstance(label, bool)
        if whole or (isinstance(label, (float, np.floating)) and float(label).is_integer()):
            number = number_of(names, int(label))
        else:
            known = isinstance(label, (str, bytes, bool, np.bool_))
            name = label if label in names else class_name(label) if known else None
            number = names.index(name) if name in names else None
        if number is not None:
            return number
        shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
        raise ConfigError(f"no label {label!r}; this prior knows {shown}")

    def tensor(self, values: Sequence[int]) -> Tensor:
        return torch.tensor(values)

    def name(self, value: int) -> str:
        return self.config.class_names[value]


class TextLoader(ConditionLoader):
    """Captions, as bytes."""

    kind = "text"
    options = ("caption_bytes",)
    config: TextConfig

    @classmethod
    def missing(cls, run: RunData) -> str:
        if any(split.captions for split in run.train.findings.splits[:1]):
            return ""
        return (
            "the images have no captions: name their column with --text-column, or add a metadata.csv, or .txt files "
            "next to the images"
        )

    @classmethod
    def from_run(cls, run: RunData) -> TextLoader:
        return cls(TextConfig(max_bytes=run.recipe.caption_bytes), run.tokenizer)

    def values(self, given: Given) -> list[str]:
        captions, limit = unicode_texts(given.get("text")), self.config.max_bytes
        cut = [text for text in captions if len(text.encode()) > limit]
        if cut:
            logger.info(
                "%d of %d captions are cut to %d bytes, the most that this prior reads, such as %r",
                len(cut), len(captions), limit, cut[0][:40],
            )  # fmt: skip
        return captions

    def tensor(self, values: Sequence[str]) -> Tensor:
        return caption_bytes(values, self.config.max_bytes)

    def name(self, value: str) -> str:
        return value


class FeaturesLoader(ConditionLoader):
    """Captions through a pretrained text encoder, or features that a person computed."""

    kind = "features"
    options = ("text_encoder",)
    config: FeaturesConfig

    @classmethod
    def missing(cls, run: RunData) -> str:
        if run.recipe.text_encoder is None:
            return "it needs --text-encoder"
        return TextLoader.missing(run)

    @classmethod
    def from_run(cls, run: RunData) -> FeaturesLoader:
        encoder = TextEncoder(str(run.recipe.text_encoder), run.tokenizer.device)
        loader = cls(
            FeaturesConfig(width=encoder.width, tokens=encoder.tokens, text_encoder=encoder.name),
            run.tokenizer,
        )
        loader.__dict__["encoder"] = encoder
        return loader

    @cached_property
    def encoder(self) -> TextEncoder:
        """The text encoder, loaded when it is first needed."""
        if not self.config.text_encoder:
            raise ConfigError("it is not known which text encoder this prior reads: pass features, not text")
        return TextEncoder(self.config.text_encoder, self.tokenizer.device)

    def cache_columns(self, source: ImageSource) -> tuple[CacheColumn, ...]:
        return self.config.columns(self.config.text_encoder)

    def encode(self, texts: Sequence[str], batch: Any, encode_crops: EncodeCrops) -> dict[str, np.ndarray]:
        return {"features": self.encoder(texts).cpu().numpy()}

    def values(self, given: Given) -> list[Any]:
        features = given.get("features")
        return unicode_texts(given.get("text")) if features is None else as_list(features, "features")

    def tensor(self, values: Sequence[Any]) -> Tensor:
        if isinstance(values[0], str):
            return self.encoder(values)
        return torch.stack([torch.as_tensor(value) for value in values])

    def name(self, value: Any) -> str | None:
        return value if isinstance(value, str) else None


def unicode_texts(given: Any) -> list[str]:
    """One text or several, as a list. Raises ConfigError for a value that is not text or has no UTF-8."""
    texts = as_list(given, "text")
    wrong = [text for text in texts if not isinstance(text, str) or _SURROGATE.search(text)]
    if wrong:
        raise ConfigError(f"text must be Unicode text, got {wrong[0]!r:.80}: give text that UTF-8 can hold")
    return texts


LOADERS: dict[str, type[ConditionLoader]] = {
    loader.kind: loader for loader in (LabelLoader, TextLoader, FeaturesLoader, ImageLoader)
}


def choose_conditions(run: RunData) -> list[ConditionLoader]:
    """The loaders of a new prior: as the recipe names them, else label and image where the data have them.

    Raises:
        ConfigError: for a condition that does not exist, or that the data or other options do not provide, or an
            option of a condition that is not chosen.
    """
    named = run.recipe.conditions
    if named is None:
        chosen = [kind for kind in ("label", "image") if not LOADERS[kind].missing(run)]
    else:
        chosen = [kind for kind in LOADERS if kind in named]
        wrong = [kind for kind in named if kind not in (*LOADERS, "none")]
        if wrong:
            raise ConfigError(f"conditions: unknown {', '.join(wrong)}; use {', '.join(LOADERS)} or none")
    _check_effects(run, chosen)
    for kind in chosen:
        lacking = LOADERS[kind].missing(run)
        if lacking:
            raise ConfigError(f"conditions: {kind} is not possible: {lacking}")
    loaders = [LOADERS[kind].from_run(run) for kind in chosen]
    for loader in loaders:
        loader.open(run.data, run.columns)
    return loaders


def _check_effects(run: RunData, chosen: Sequence[str]) -> None:
    """Refuse settings that have no effect. A resumed run may have been started with them: then the log names them."""
    found = {}
    if chosen and "none" in (run.recipe.conditions or ()):
        found[f"conditions: none has no effect beside {', '.join(chosen)}"] = "remove one of them"
    for kind in (kind for kind in LOADERS if kind not in chosen):
        wanted = ",".join([*chosen, kind])
        for name in filter(run.is_set, LOADERS[kind].options):
            found[f"{name} has no effect without {kind}"] = f"use --conditions {wanted}, or remove {name}"
    for what, advice in found.items():
        if not run.resumed:
            raise ConfigError(f"{what}: {advice}")
        logger.warning("%s", what)


def trained_conditions(
    config: PriorConfig, tokenizer: Tokenizer, folder: Path | None
) -> list[ConditionLoader]:
    """The loaders of a trained prior."""
    return [LOADERS[own.kind](own, tokenizer, folder) for own in config.conditions]


def describe_conditions(config: PriorConfig) -> str:
    """The conditions of a prior in words."""
    return ", ".join(condition.describe() for condition in config.conditions) or "none"
