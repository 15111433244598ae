"""What to sample: the arguments of one call of the sampler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ..conditions.condition import Condition
from ..config import SamplingConfig

Progress = Callable[[int], object]
"""Called with the number of codes sampled since the last call."""
Watch = Callable[[Tensor], object]
"""Called with the codes so far, -1 where none is sampled yet. The sampler goes on writing into them."""


@dataclass(frozen=True)
class SamplingRequest:
    """B images of a grid of T positions."""

    condition: Condition
    uniforms: Tensor
    """(B, 2, T) float64: per grid position, one number chooses the code and one the position's place in the order."""
    settings: SamplingConfig
    codes: Tensor
    """(B, T) int64, written by the sampler; -1 for those to sample, the same positions in every row."""
    grid: tuple[int, int]
    progress: Progress
    watch: Watch

    @property
    def known(self) -> Tensor:
        """Positions whose code is known, (T,) bool."""
        return self.codes[0] >= 0
