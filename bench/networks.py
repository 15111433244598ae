"""The networks to measure: of a model folder, or of a preset with random weights."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from ..errors import ConfigError
from ..options import build
from ..pipelines.pipeline import Pipeline
from ..pipelines.settings import load_presets, option_names
from ..prior.config import PriorConfig
from ..prior.model import Prior
from ..tokenizer.config import TokenizerConfig
from ..tokenizer.model import Tokenizer

CLASSES = 10
"""Classes of a prior with random weights. Their number does not change the speed."""


def load_networks(model: Path | None, preset: str, device: torch.device) -> tuple[Tokenizer, Prior]:
    """Return the networks of a model folder in float32, or those of a preset with random weights."""
    if model is None:
        return random_networks(preset, device)
    pipeline = Pipeline.from_pretrained(model, device, precision="fp32")
    return pipeline.tokenizer, pipeline.prior


def random_networks(preset: str, device: torch.device) -> tuple[Tokenizer, Prior]:
    """Return a preset's tokenizer and prior with random weights.

    Raises:
        ConfigError: there is no preset of that name for the prior.
    """
    torch.manual_seed(0)
    tokenizer = Tokenizer(tokenizer_config(preset))
    prior = Prior(_prior_config(preset, tokenizer.config))
    for parameter in prior.parameters():
        if not parameter.any():  # such as the head, which would make all codes equally likely
            nn.init.normal_(parameter, std=0.02)
    return tokenizer.to(device).eval(), prior.to(device).eval()


def tokenizer_config(preset: str) -> TokenizerConfig:
    """Return the tokenizer of a preset, or the largest one for a preset that only the prior has."""
    presets = load_presets("tokenizer")
    values = presets.get(preset) or list(presets.values())[-1]
    return build(TokenizerConfig, {k: v for k, v in values.items() if k in option_names(TokenizerConfig)})


def _prior_config(preset: str, tokenizer: TokenizerConfig) -> PriorConfig:
    presets = load_presets("prior")
    if preset not in presets:
        raise ConfigError(f"no preset {preset!r}; there are {', '.join(presets)}")
    values = {k: v for k, v in presets[preset].items() if k in option_names(PriorConfig)}
    labels = {"kind": "label", "class_names": [str(i) for i in range(CLASSES)]}
    fixed = {"grid": tokenizer.grid, "codebook_size": tokenizer.codebook_size, "conditions": [labels]}
    return build(PriorConfig, values | fixed)
