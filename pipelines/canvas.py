"""A grid of codes some of which are known: what every editing command gives to the sampler.

Shapes: h, w grid.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..errors import DataError


@dataclass(frozen=True)
class Window:
    """A part of a larger grid, in tokens."""

    top: int
    left: int
    height: int
    width: int


def unchanged(image: Image.Image) -> Image.Image:
    """Return the image itself."""
    return image


@dataclass(frozen=True)
class Canvas:
    """Known and missing codes of one image, of any grid. `Sampling.stream` samples the missing ones."""

    codes: Tensor
    """(h, w) int64, -1 where a code is to be sampled."""
    finish: Callable[[Image.Image], Image.Image] = unchanged
    """Turns the decoded image of the canvas into the result: pastes kept pixels, cuts to a size."""
    values_at: Callable[[Window], Mapping[str, Any]] | None = None
    """The conditions of one window, which has the trained grid, one value by name: {"image": PIL image}."""
    shown: Sequence[tuple[str, Image.Image]] = ()
    """Captions and images that a grid of the results starts with, such as the image that is edited."""
    leads: bool = True
    """Whether it is the first canvas of a call: the others do not say again what holds for all."""

    def __post_init__(self) -> None:
        if self.codes.dim() != 2 or self.codes.dtype != torch.int64:
            raise DataError(
                f"a canvas needs codes (h, w) int64, got {tuple(self.codes.shape)} {self.codes.dtype}"
            )

    @classmethod
    def empty(cls, grid: tuple[int, int]) -> Canvas:
        """A canvas without known codes."""
        return cls(torch.full(grid, -1))

    @property
    def grid(self) -> tuple[int, int]:
        """Grid (h, w)."""
        h, w = self.codes.shape
        return h, w

    @property
    def has_known(self) -> bool:
        """Whether any code is known."""
        return bool((self.codes >= 0).any())

    @property
    def missing(self) -> int:
        """Number of codes to sample."""
        return int((self.codes < 0).sum())
