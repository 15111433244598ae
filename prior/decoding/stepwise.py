"""The logits of one code after the other, for one image whose codes are given step by step.

An arithmetic coder and its decoder need bit-identical probabilities. Both run the classes of this file: the same
operations on the same shapes, whether the codes are known in advance or not.

Shapes: T tokens, S prefix length, D width, V codebook size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from ..conditions.condition import Condition
from ..config import PriorConfig
from .decoder import Decoder
from .orders import halton_order
from .step import Rows


class Stepwise(ABC):
    """A prior that reads one image, code after code: `logits` of the next code, then `append` that code."""

    def __init__(self, decoder: Decoder, condition: Condition, order: Tensor) -> None:
        """Start an image of the trained grid.

        Args:
            decoder: neither compiled nor captured. Its weights must not change until the image is done.
            condition: of one image.
            order: (T,), a permutation of the grid positions; raster order for a raster prior.

        Raises:
            DataError: for conditions that the prior was not trained with, or values of another shape or range.
        """
        self.decoder, self.grid = decoder, decoder.config.grid
        self.order = order.to(decoder.device)
        self.codes = torch.full((1, len(order)), -1, device=decoder.device)
        """(1, T) int64, -1 where not appended yet."""
        self.done = 0
        self.encoded = decoder.encode(condition, 1, self.grid)

    @abstractmethod
    def logits(self) -> Tensor:
        """Return the logits (V,) float32 of the next code. To be called once per code."""

    def append(self, code: int) -> None:
        """Give the next code of the order."""
        self.codes[0, self.order[self.done]] = code
        self.done += 1


class CausalSteps(Stepwise):
    """A raster or random prior: one token per code, with a KV cache."""

    def __init__(self, decoder: Decoder, condition: Condition, order: Tensor) -> None:
        super().__init__(decoder, condition, order)
        self.positions = decoder.positions_in_order(self.order, self.grid)
        length = decoder.config.prefix_length + len(order) - 1
        self.rows = Rows(self.encoded, decoder.new_cache(self.encoded, length))

    def logits(self) -> Tensor:
        last = self.decoder.config.prefix_length + self.done
        if self.done:
            position = self.order[self.done - 1 : self.done]
            first, x = last - 1, self.decoder.embed(self.codes[:, position])  # (1, 1, D)
        else:
            first, x = 0, self.encoded.prefix  # (1, S, D)
        y = self.decoder.forward(x, self.positions.slice(first, last), self.rows, first)
        return self.decoder.logits(y[:, -1:])[0, 0]


class MaskedSteps(Stepwise):
    """A masked prior: one pass over the whole grid per code."""

    def logits(self) -> Tensor:
        logits = self.decoder.masked_logits(self.codes, self.encoded, self.grid)  # (1, T, V)
        return logits[0, self.order[self.done]]


def stepwise(decoder: Decoder, condition: Condition, order: Tensor) -> Stepwise:
    """Return the steps of one image, see `Stepwise`."""
    decoder.refresh()
    kind = MaskedSteps if decoder.config.objective == "masked" else CausalSteps
    return kind(decoder, condition, order)


def coding_order(config: PriorConfig) -> Tensor:
    """Return the order (T,) in which codes are compressed: raster order; for masked priors Halton order.

    A masked prior learned from codes that are spread over the grid, as the first codes of a Halton order are.
    """
    return halton_order(config.grid) if config.objective == "masked" else torch.arange(config.tokens)
