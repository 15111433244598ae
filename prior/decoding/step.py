"""One step of decoding as a pure function of tensors: reads the code before, predicts the next and chooses it.

What the step depends on lies in tensors that stay where they are (`State`), the number of the step too: no branch on
data, no synchronisation with the host, no random generator. It runs as it is, compiled (`fused`), or captured as a
CUDA graph and replayed (`capture`), and draws the same codes.

Shapes: B images, T codes an image, S condition slots, D width, V codebook size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..conditions.condition import EncodedCondition
from ..config import SamplingConfig
from ..positions import Places
from .cache import KVCache
from .compiled import fused_draw
from .filters import draw, guide

if TYPE_CHECKING:
    from ..network import PriorNetwork


@dataclass(frozen=True)
class State:
    """All that the steps of one batch read and write."""

    codes: Tensor
    """(B, T) int64, -1 for those not drawn; what is there already stays."""
    uniforms: Tensor
    """(B, T) float64 by place."""
    order: Tensor
    """(B, T), places in the order in which they are drawn."""
    done: Tensor
    """(1,) int64, codes that are there so far."""
    weights: Tensor
    """(T,) float32, guidance by the number of codes that are there."""
    temperatures: Tensor
    """(T,) float32, the same for temperature."""
    places: Places
    """Of all slots, (S + T - 1, ...) or (B, S + T - 1, ...)."""
    encoded: EncodedCondition
    """The rows in the network: with their conditions, and where guidance is on at some step as many without."""

    @property
    def guided(self) -> bool:
        """Whether each image has a second row, without its condition."""
        return len(self.encoded.prefix) > len(self.codes)

    def settle(self, place: Tensor, drawn: Tensor) -> None:
        """Puts the codes drawn (B, k) to their places (B, k), the next ones of the order, unless some are there."""
        there = self.codes.gather(1, place)
        self.codes.scatter_(1, place, torch.where(there >= 0, there, drawn))
        self.done.add_(place.shape[1])

    def tensors(self) -> list[Tensor]:
        """All of them."""
        own = (self.codes, self.uniforms, self.order, self.done, self.weights, self.temperatures)
        parts = (*own, *self.places, *vars(self.encoded).values())
        return [t for t in parts if t is not None]


def draw_next(
    prior: PriorNetwork,
    state: State,
    cache: KVCache,
    settings: SamplingConfig,
    *,
    guided: bool,
    tempered: bool,
) -> None:
    """Draws the next code of every image; the cache must have room, and all slots before the last code's.

    Args:
        guided: with guidance; else the rows without their condition are left alone.
        tempered: whether the temperature is another than 1 at some step.
    """
    done, encoded, B = state.done, state.encoded, len(state.codes)
    before, place = (state.order.index_select(1, index) for index in (done - 1, done))  # (B, 1) each
    x = prior.code_embedding(state.codes.gather(1, before))  # (B, 1, D)
    slot = done + (prior.config.prefix_length - 1)
    places = state.places.select(slot)
    if guided:
        x = x.repeat(2, 1, 1)
    elif state.guided:
        encoded, cache = encoded.rows(0, B), cache.rows(0, B)
    places = places.repeat(len(x))
    logits = prior.logits(prior.one_step(x, places, encoded, cache, slot))  # (B or 2B, 1, V)
    if guided:
        logits = guide(logits, state.weights.index_select(0, done))
    temperature = state.temperatures.index_select(0, done) if tempered else None
    choice = fused_draw if prior.fused else draw
    state.settle(place, choice(logits, state.uniforms.gather(1, place), settings, temperature))
