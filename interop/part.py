"""What an import needs beside the tensors, and what it gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..prior.config import PriorConfig
from ..prior.model import Prior
from ..tokenizer.config import TokenizerConfig
from ..tokenizer.model import Tokenizer
from .mapping import Shape

STAGES = ("tokenizer", "prior")
IMAGE_SIZE = 256
"""Side of the images that the published models were trained on, where nothing else tells."""


@dataclass(frozen=True)
class Hints:
    """What tensors do not tell; None where the user did not say."""

    heads: int | None = None
    """Attention heads of the prior."""
    image_size: int | None = None
    """Side of the images in pixels."""
    classes: int | None = None
    """Labels of the prior; 0 for one without labels."""
    side: int = 16
    """Side of the prior's grid of codes: the images' over the tokenizer's factor."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """The `model` section of the YAML that came with the weights."""


@dataclass(frozen=True)
class Part:
    """One stage in our terms: the configuration, and the tensors by our names."""

    config: TokenizerConfig | PriorConfig
    tensors: dict[str, Tensor]

    @property
    def stage(self) -> str:
        """Name of the folder that it belongs in."""
        return "tokenizer" if isinstance(self.config, TokenizerConfig) else "prior"


def blueprint(config: TokenizerConfig | PriorConfig) -> Tokenizer | Prior:
    """The network without memory for its weights."""
    with torch.device("meta"):
        return Tokenizer(config) if isinstance(config, TokenizerConfig) else Prior(config)


def shapes(config: TokenizerConfig | PriorConfig) -> dict[str, Shape]:
    """The shape of every tensor of the network, by our names."""
    return {name: tuple(t.shape) for name, t in blueprint(config).state_dict().items()}


def pick_heads(width: int, published: Mapping[int, int], given: int | None) -> int:
    """Attention heads of a prior of this width: as given, or as published."""
    heads = given or published.get(width)
    if heads is None:
        raise CheckpointError(
            f"the tensors do not tell the attention heads of a prior of width {width}, and no published one has "
            f"it: give --heads"
        )
    if width % heads or width // heads % 4:
        raise CheckpointError(
            f"{heads} heads do not divide width {width} into multiples of 4: give other --heads"
        )
    return heads


def number_names(classes: int) -> tuple[str, ...]:
    """Names of classes of which only the number is published."""
    return tuple(str(i) for i in range(classes))
