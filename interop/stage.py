"""One stage of a published model in imgtf's terms, and what its import needs besides the tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..options import Size
from ..prior.config import PriorConfig
from ..prior.model import Prior
from ..runtime.weights import Uninitialised
from ..tokenizer.config import TokenizerConfig
from ..tokenizer.model import Tokenizer
from .mapping import Shape

STAGES = ("tokenizer", "prior")
IMAGE_SIZE = 256
"""Default side of the published models' training images."""


@dataclass(frozen=True)
class Hints:
    """Settings that the tensors do not contain; None where the user gave none."""

    heads: int | None = None
    """Attention heads of the prior."""
    image_size: Size | None = None
    """Side of the images in pixels, or (height, width)."""
    classes: int | None = None
    """Classes of the prior; 0 for an unconditional one."""
    grid: tuple[int, int] = (16, 16)
    """Grid (h, w) of the prior's codes: image size / downsampling factor of the tokenizer."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What was published beside the weights: the `model` section of a training run's YAML file, or diffusers'
    config.json."""


@dataclass(frozen=True)
class StageWeights:
    """One stage: its configuration, and its tensors by imgtf's names."""

    config: TokenizerConfig | PriorConfig
    tensors: dict[str, Tensor]

    @property
    def stage(self) -> str:
        """Name of the stage, and of its folder."""
        return "tokenizer" if isinstance(self.config, TokenizerConfig) else "prior"


def meta_model(config: TokenizerConfig | PriorConfig) -> Tokenizer | Prior:
    """Return the network on the meta device, without memory for its weights."""
    with torch.device("meta"), Uninitialised():
        return Tokenizer(config) if isinstance(config, TokenizerConfig) else Prior(config)


def shapes(config: TokenizerConfig | PriorConfig) -> dict[str, Shape]:
    """Return the shape of every tensor of the network, by imgtf's names."""
    return {name: tuple(t.shape) for name, t in meta_model(config).state_dict().items()}


def pick_heads(width: int, published: Mapping[int, int], given: int | None) -> int:
    """Return the attention heads of a prior of this width: the given number, or the published one.

    Raises:
        CheckpointError: neither is known, or the heads do not fit the width.
    """
    heads = given or published.get(width)
    if heads is None:
        raise CheckpointError(
            f"the number of attention heads is not in the tensors, and no published prior has width {width}: "
            f"give --heads"
        )
    if width % heads or width // heads % 4:
        raise CheckpointError(
            f"{heads} heads with width {width}: the head width must be a multiple of 4; give other --heads"
        )
    return heads


def pick_grid(tokens: int, hints: Hints) -> tuple[int, int] | None:
    """Return the grid of a prior with this many positions: the given one, else a square. None if neither fits.

    A given grid that is not square must fit: the positions belong to another shape then.
    """
    h, w = hints.grid
    if h * w == tokens:
        return hints.grid
    side = math.isqrt(max(tokens, 0))
    return (side, side) if h == w and side and side * side == tokens else None


def number_names(classes: int) -> tuple[str, ...]:
    """Return numbers as class names, for models that publish no names."""
    return tuple(str(i) for i in range(classes))
