"""The families by name: which one a file belongs to, and export of a model to one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..prior.conditions.base import ConditionConfig
from ..prior.conditions.features import FeaturesConfig
from ..prior.conditions.label import LabelConfig
from ..prior.config import PriorConfig
from ..prior.model import Prior
from ..tokenizer.config import TokenizerConfig
from ..tokenizer.model import Tokenizer
from . import diffusers, llamagen, taming
from .mapping import export_tensors
from .read import read_tensors
from .stage import Hints, StageWeights, number_names
from .vqmodel_config import to_vqmodel
from .vqmodel_folder import open_folder, read_settings

FAMILIES: dict[str, ModuleType] = {"llamagen": llamagen, "taming": taming, "diffusers": diffusers}
IGNORED: dict[type, frozenset[str]] = {
    TokenizerConfig: frozenset({
        # training and output
        "bit_depth", "codebook_decay", "codebook_learned", "dead_code_threshold", "gradient_checkpointing",
        "rotation_trick",
        # other networks and quantizers
        "depth", "fsq_levels", "heads", "patch", "registers", "residual_codes",
    }),
    PriorConfig: frozenset({
        "attention_dropout", "condition_dropout", "drop_path", "dropout", "gradient_checkpointing", "sampling",
        "token_dropout", "tokenizer_sha256",
        "encoder_depth",  # no family has a condition encoder
    }),
}  # fmt: skip
"""Fields that do not change what a network of these families computes. Export ignores them."""
AVERAGES = {"quantizer.vq._codebook.cluster_size", "quantizer.vq._codebook.embed_avg"}
"""Tensors that do not change it either."""


class WeightFile:
    """A weight file, what was published beside it, and its family."""

    def __init__(self, family: str, path: Path, yaml: Mapping[str, Any]) -> None:
        """Read the tensors.

        Args:
            family: a name of `FAMILIES`, or "auto".
            path: a weight file, or a folder of diffusers.
            yaml: the `model` section of the YAML file of the training run, or nothing.

        Raises:
            CheckpointError: the file cannot be read or is of another family.
        """
        self.given, self.settings = path, yaml
        path = open_folder(path) if path.is_dir() else path
        self.path, self.tensors = path, read_tensors(path)
        found = {name: naming.recognise(self.tensors) for name, naming in FAMILIES.items()}
        families = [name for name, stages in found.items() if stages and family in ("auto", name)]
        if not families:
            other = next((name for name, stages in found.items() if stages), None)
            names = ", ".join(sorted(self.tensors)[:3])
            reason = f"they are of {other}" if other else f"no known family has tensors like {names}"
            raise CheckpointError(f"{path}: no {'known' if family == 'auto' else family} weights: {reason}")
        self.naming = FAMILIES[families[0]]
        self.stages: tuple[str, ...] = found[families[0]]
        if self.naming is diffusers:
            if yaml:
                raise CheckpointError(f"{path}: a tokenizer of diffusers has a config.json, no YAML file")
            self.settings = read_settings(path.parent)

    def read(self, stage: str, hints: Hints) -> StageWeights:
        """Return one of its stages.

        Raises:
            CheckpointError: tensors are missing, unknown or misshapen; the message names the file and the tensors.
        """
        read = self.naming.read_tokenizer if stage == "tokenizer" else self.naming.read_prior
        try:
            return read(self.tensors, replace(hints, settings=self.settings))
        except CheckpointError as error:
            raise CheckpointError(f"{self.path}: {error}") from error

    def origin(self) -> str:
        """Return the origin of the weights in one sentence, for the model card."""
        name = self.given.resolve().name
        return f"`{name}` of {self.naming.SOURCE}; code under {self.naming.LICENCE}, weights as published"


def to_family(family: str, model: Tokenizer | Prior) -> dict[str, Tensor]:
    """Return the model's tensors under the names of a family.

    Raises:
        CheckpointError: the family's networks cannot represent the model.
    """
    naming = FAMILIES[family]
    if naming is diffusers and isinstance(model, Tokenizer):
        model = diffusers.to_euclidean(model)
    config = model.config
    is_tokenizer = isinstance(config, TokenizerConfig)
    entries = list(naming.tokenizer_entries(config) if is_tokenizer else naming.prior_entries(config))
    state = model.state_dict()
    unmatched = sorted((state.keys() ^ {e.ours for e in entries}) - set(naming.CREATED))
    if unmatched:
        raise _not_representable(family, model, unmatched)
    tensors = export_tensors(entries, state)
    lost = _lost(naming, model, tensors)
    if lost:
        raise _not_representable(family, model, lost)
    return tensors


def _not_representable(family: str, model: Tokenizer | Prior, names: list[str]) -> CheckpointError:
    return CheckpointError(
        f"{family} cannot represent this {model.kind}: it differs in {', '.join(names[:4])}"
    )


def _lost(naming: ModuleType, model: Tokenizer | Prior, tensors: Mapping[str, Tensor]) -> list[str]:
    """Import the exported tensors again; return the names of settings and tensors that differ from the model's."""
    config = model.config
    if isinstance(config, TokenizerConfig):
        settings = to_vqmodel(config) if naming is diffusers else {}
        imported = naming.read_tokenizer(tensors, Hints(image_size=config.image_size, settings=settings))
    else:
        hints = Hints(heads=config.heads, classes=config.classes, grid=config.grid)
        imported = naming.read_prior(tensors, hints)
    before, after = network_settings(config), network_settings(imported.config)
    state = model.state_dict()
    names = [name for name in imported.tensors if name not in AVERAGES]
    return [name for name in before if before[name] != after[name]] + [
        name for name in names if not torch.equal(imported.tensors[name], state[name])
    ]


def network_settings(config: TokenizerConfig | PriorConfig) -> dict[str, Any]:
    """Return the settings that determine what the network computes, by name."""
    names = [f.name for f in fields(config) if f.name not in IGNORED[type(config)]]
    values = {name: getattr(config, name) for name in names}
    if isinstance(config, PriorConfig):
        values["kv_heads"], values["intermediate_size"] = config.key_heads, config.mlp_width
        values["conditions"] = tuple(_without_names(condition) for condition in config.conditions)
    return values


def _without_names(condition: ConditionConfig) -> ConditionConfig:
    """Replace names that no published file holds."""
    if isinstance(condition, LabelConfig):
        return replace(condition, class_names=number_names(len(condition.class_names)))
    return replace(condition, text_encoder="") if isinstance(condition, FeaturesConfig) else condition
