"""The tensors of a batch that decoding steps read and write, and the functions that compute a step.

All that a step depends on is in tensors at fixed addresses, its position too: no branch on data, no synchronisation
with the host, no random generator. So a step can run eagerly, compiled, or captured as a CUDA graph.

Shapes: B images, T tokens, S prefix length, D width, V codebook size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...nn.attention import AttentionInputs
from ..conditions.condition import EncodedCondition
from ..config import SamplingConfig
from ..positions import TokenPositions
from .cache import KVCache
from .filters import draw_codes


@dataclass(frozen=True)
class DecodingState:
    """The tensors of one batch."""

    codes: Tensor
    """(B, T) int64, -1 where not sampled yet; known codes stay."""
    uniforms: Tensor
    """(B, T) float64 by grid position."""
    order: Tensor
    """(B, T), the order in which grid positions are sampled."""
    done: Tensor
    """(1,) int64, number of codes sampled or known so far."""
    guidance: Tensor
    """(T,) float32, guidance scale by `done`."""
    temperatures: Tensor
    """(T,) float32, temperature by `done`."""
    positions: TokenPositions
    """Of the whole sequence, (S + T - 1, ...) or (B, S + T - 1, ...)."""
    encoded: EncodedCondition
    """One row per image; with guidance followed by one unconditional row per image."""

    @property
    def guided(self) -> bool:
        """Whether there are unconditional rows."""
        return len(self.encoded.prefix) > len(self.codes)

    def write(self, position: Tensor, sampled: Tensor) -> None:
        """Write the sampled codes (B, k) to the next grid positions (B, k) of the order, except where one is known."""
        current = self.codes.gather(1, position)
        self.codes.scatter_(1, position, torch.where(current >= 0, current, sampled))
        self.done.add_(position.shape[1])

    def tensors(self) -> list[Tensor]:
        """Return all tensors."""
        own = (self.codes, self.uniforms, self.order, self.done, self.guidance, self.temperatures)
        fields: Iterable[Tensor | None] = (*own, *self.positions, *vars(self.encoded).values())
        return [t for t in fields if t is not None]


@dataclass(frozen=True)
class DecodingBatch:
    """A batch that is being sampled."""

    state: DecodingState
    cache: KVCache
    settings: SamplingConfig
    tempered: bool
    """Whether the temperature differs from 1 at any step."""


class Rows(NamedTuple):
    """Rows of a batch as the network reads them."""

    encoded: EncodedCondition
    cache: KVCache

    def part(self, start: int, end: int) -> Rows:
        """Return some of the rows."""
        if (start, end) == (0, len(self.encoded.prefix)):
            return self
        return Rows(self.encoded.rows(start, end), self.cache.rows(start, end))


class StepFunctions(NamedTuple):
    """The computations of a step of one token per image."""

    blocks: Callable[[Sequence[nn.Module], Tensor, Sequence[AttentionInputs]], Tensor]
    """All blocks, (B, 1, D) -> (B, 1, D), with the inputs of each."""
    logits: Callable[[nn.Module, nn.Module, Tensor], Tensor]
    """Norm and head, (B, 1, D) -> (B, 1, V) float32."""
    draw: Callable[[Tensor, Tensor, SamplingConfig, Tensor | None], Tensor]
    """See `filters.draw_codes`."""


def run_blocks(blocks: Sequence[nn.Module], x: Tensor, inputs: Sequence[AttentionInputs]) -> Tensor:
    """Run blocks, each with its own inputs, (B, n, D) -> (B, n, D)."""
    for block, own in zip(blocks, inputs, strict=True):
        x = block(x, own)
    return x


def run_head(norm: nn.Module, head: nn.Module, x: Tensor) -> Tensor:
    """Run norm and head, (B, n, D) -> (B, n, V) float32."""
    logits: Tensor = head(norm(x))
    return logits.float()


EAGER = StepFunctions(run_blocks, run_head, draw_codes)
