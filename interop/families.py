"""The families by name: which one a file is of, and whether one can express a model of ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..prior.model import Prior
from ..tokenizer.config import TokenizerConfig
from ..tokenizer.model import Tokenizer
from . import llamagen, taming
from .mapping import release
from .part import Hints, Part
from .read import read_tensors

FAMILIES: dict[str, ModuleType] = {"llamagen": llamagen, "taming": taming}
FREE = {
    "class_names", "tokenizer_sha256", "sampling", "dropout", "label_dropout", "codebook_decay",
    "dead_code_threshold", "rotation_trick", "codebook_learned", "gradient_checkpointing",
}  # fmt: skip
"""Settings that no published file holds and that change nothing of what the network computes."""
AVERAGES = {"quantizer.vq._codebook.cluster_size", "quantizer.vq._codebook.embed_avg"}
"""Tensors of the same kind."""


class WeightFile:
    """One weight file with its YAML and the family that it is of."""

    def __init__(self, family: str, path: Path, recipe: Mapping[str, Any]) -> None:
        self.path, self.recipe = path, recipe
        self.tensors = read_tensors(path)
        found = {name: naming.recognise(self.tensors) for name, naming in FAMILIES.items()}
        families = [name for name, stages in found.items() if stages and family in ("auto", name)]
        if not families:
            other = next((name for name, stages in found.items() if stages), None)
            names = ", ".join(sorted(self.tensors)[:3])
            is_what = f"it is {other}" if other else f"no known family has tensors like {names}"
            raise CheckpointError(f"{path}: no {'known' if family == 'auto' else family} weights: {is_what}")
        self.naming = FAMILIES[families[0]]
        self.stages: tuple[str, ...] = found[families[0]]

    def part(self, stage: str, hints: Hints) -> Part:
        """One of its stages in our terms, or a CheckpointError that names the file and the tensors at fault."""
        read = self.naming.read_tokenizer if stage == "tokenizer" else self.naming.read_prior
        try:
            return read(self.tensors, replace(hints, recipe=self.recipe))
        except CheckpointError as error:
            raise CheckpointError(f"{self.path}: {error}") from error

    def origin(self) -> str:
        """Where the weights come from, for the model card."""
        return (
            f"`{self.path.name}` of {self.naming.SOURCE}; "
            f"code under {self.naming.LICENCE}, weights as published"
        )


def to_family(family: str, model: Tokenizer | Prior) -> dict[str, Tensor]:
    """The model's tensors in a published naming.

    Raises:
        CheckpointError: when that family's networks cannot express the model.
    """
    naming = FAMILIES[family]
    own = model.config
    entries = list(
        naming.tokenizer_entries(own) if isinstance(own, TokenizerConfig) else naming.prior_entries(own)
    )
    state = model.state_dict()
    odd = sorted((state.keys() ^ {e.ours for e in entries}) - set(naming.MADE))
    lost = odd or _lost(naming, model, tensors := release(entries, state))
    if lost:
        raise CheckpointError(
            f"{family} cannot express this {model.kind}: it differs in {', '.join(lost[:4])}"
        )
    return tensors


def _lost(naming: ModuleType, model: Tokenizer | Prior, tensors: Mapping[str, Tensor]) -> list[str]:
    """Reads the export back: settings and tensors of ours that would not return."""
    config = model.config
    if isinstance(config, TokenizerConfig):
        again = naming.read_tokenizer(tensors, Hints(image_size=config.image_size))
    else:
        config = replace(config, intermediate_size=config.mlp_width)
        hints = Hints(heads=config.heads, classes=config.classes, side=config.grid[0])
        again = naming.read_prior(tensors, hints)
    settings = [f.name for f in fields(config) if f.name not in FREE]
    lost = [name for name in settings if getattr(config, name) != getattr(again.config, name)]
    state = model.state_dict()
    names = [name for name in again.tensors if name not in AVERAGES]
    return lost + [name for name in names if not torch.equal(again.tensors[name], state[name])]
