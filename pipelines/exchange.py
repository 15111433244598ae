"""Published weights into a model folder, and a model folder back into a published naming."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..interop import llamagen, taming
from ..interop.mapping import release
from ..interop.part import Hints, Part, blueprint
from ..interop.read import read_tensors, read_yaml
from ..pretrained import read_json, write_tensors, write_text
from ..prior.config import PriorConfig
from ..prior.model import Prior
from ..tokenizer.config import TokenizerConfig
from ..tokenizer.model import Tokenizer
from .card import write_card

logger = logging.getLogger("imgtf")

FAMILIES: dict[str, ModuleType] = {"llamagen": llamagen, "taming": taming}
STAGES = ("tokenizer", "prior")
YAML = (".yaml", ".yml")
FREE = {
    "class_names", "tokenizer_sha256", "sampling", "dropout", "label_dropout", "codebook_decay",
    "dead_code_threshold", "rotation_trick",
}  # fmt: skip
"""Settings that no published file holds and that change nothing of what the network computes."""


def import_weights(
    family: str,
    files: Sequence[Path],
    folder: Path,
    *,
    heads: int | None = None,
    image_size: int | None = None,
    classes: int | None = None,
    force: bool = False,
) -> list[Path]:
    """Imports weight files into `folder` and returns the folders written, tokenizer first.

    Args:
        family: a name of `FAMILIES`, or "auto" to go by the names of the tensors.
        files: weights; a YAML among them belongs to the weights it follows, or to the first.
        heads, image_size, classes: what the tensors do not tell.
        force: replace what is there.

    Raises:
        CheckpointError: when a file cannot be read, is of another family, has tensors missing, unknown or
            misshapen, or the two stages do not belong together. Nothing is written then.
    """
    hints = Hints(heads=heads, image_size=image_size, classes=classes, factor=_factor(folder))
    parts: dict[str, tuple[Part, str]] = {}
    for path, recipe in sorted(_with_recipes(files), key=_prior_last(family)):
        for part, origin in _read(family, path, replace(hints, recipe=recipe)):
            if part.stage in parts:
                raise CheckpointError(f"{path}: a second {part.stage}; import one into each folder")
            parts[part.stage] = part, origin
            if isinstance(part.config, TokenizerConfig):
                hints = replace(hints, factor=part.config.factor)
    _check_free(folder, parts, force)
    _check_pair(folder, [part for part, _ in parts.values()])
    for stage in STAGES:
        if stage in parts:
            _write(parts[stage][0], folder)
    _describe(folder, {stage: origin for stage, (_, origin) in parts.items()})
    return [folder / stage for stage in STAGES if stage in parts]


def _with_recipes(files: Sequence[Path]) -> list[tuple[Path, dict[str, Any]]]:
    weights = [f for f in files if f.suffix.lower() not in YAML]
    if not weights:
        raise CheckpointError("no weights among the files, only YAML")
    recipes: dict[Path, dict[str, Any]] = {}
    current = weights[0]
    for file in files:
        if file.suffix.lower() in YAML:
            recipes[current] = read_yaml(file)
        else:
            current = file
    return [(path, recipes.get(path, {})) for path in weights]
