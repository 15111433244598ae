"""Codes that are replaced by others, so that a decoder learns to hide the mistakes of a prior.

Shapes: B batch, h, w grid, q codes per latent, V codebook size, d codebook dimension, K neighbours.
"""

from __future__ import annotations

from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from ..runtime.batch_random import batch_rand
from .model import Tokenizer

NEAR = 0.5
"""Fraction of the replaced codes that become a neighbour in the codebook; the others become any other code."""
NEIGHBOURS = 8
"""Nearest codes among which a neighbour is drawn."""
LARGEST = 2**16
"""Codes of the largest codebook whose neighbours are looked for: it costs V * V distances."""
AT_ONCE = 2**24
"""Most distances in memory."""


class Rand(Protocol):
    """Draws uniform random numbers in [0, 1) of a shape (B, ...)."""

    def __call__(self, *shape: int, device: torch.device) -> Tensor: ...


class CodeNoise:
    """Replaces a fraction of the codes of each image, uniform between 0 and `most` (RobusTok, arXiv:2509.12474)."""

    def __init__(self, tokenizer: Tokenizer, most: float) -> None:
        self.tokenizer, self.most, self.size = tokenizer, most, tokenizer.config.codebook_size

    @cached_property
    def near(self) -> Tensor | None:
        """Neighbours (q, V, K) int64; None for a codebook that is too large."""
        return neighbours(self.tokenizer) if self.size <= LARGEST else None

    def __call__(self, codes: Tensor, rand: Rand = batch_rand, others: Tensor | None = None) -> Tensor:
        """Return codes (B, h, w * q), some of them replaced.

        Args:
            others: codes (B, h, w * q) that replace them; neighbours and random codes by default.
        """
        if not self.most:
            return codes
        device = codes.device
        fraction = self.most * rand(len(codes), 1, 1, device=device)
        replaced = rand(*codes.shape, device=device) < fraction
        return torch.where(replaced, self._others(codes, rand) if others is None else others, codes)

    def _others(self, codes: Tensor, rand: Rand) -> Tensor:
        """Another code in place of each."""
        device = codes.device
        steps = 1 + (rand(*codes.shape, device=device) * (self.size - 1)).long()
        anywhere = (codes + steps) % self.size
        if self.near is None:
            return anywhere
        stages, _, count = self.near.shape
        stage = (
            torch.arange(codes.shape[-1], device=device) % stages
        )  # the q codes of a latent are neighbours
        drawn = (rand(*codes.shape, device=device) * count).long()
        nearby = self.near.to(device)[stage.expand_as(codes), codes, drawn]
        return torch.where(rand(*codes.shape, device=device) < NEAR, nearby, anywhere)


@torch.no_grad()
def neighbours(tokenizer: Tokenizer) -> Tensor:
    """Return the nearest other codes of each code, (q, V, K) int64, in each of the q codebooks."""
    return torch.stack([_nearest(vectors) for vectors in code_vectors(tokenizer)])


def code_vectors(tokenizer: Tokenizer) -> Tensor:
    """Return the vectors of the codes of each of the q codebooks, (q, V, d), up to a shift of each codebook."""
    q, V = tokenizer.config.codes_per_latent, tokenizer.config.codebook_size
    codes = torch.zeros(q, V, 1, q, dtype=torch.long, device=tokenizer.device)
    for stage in range(q):
        codes[stage, :, 0, stage] = torch.arange(V)
    return torch.stack([tokenizer.quantizer.lookup(one)[:, :, 0, 0] for one in codes])


def _nearest(vectors: Tensor) -> Tensor:
    """Return the nearest other rows of each row (V, d), (V, K), K = `NEIGHBOURS` or all others."""
    V = len(vectors)
    found = []
    for rows in torch.arange(V, device=vectors.device).split(max(1, AT_ONCE // V)):
        distances = torch.cdist(vectors[rows], vectors)  # (n, V)
        distances[torch.arange(len(rows)), rows] = torch.inf
        found.append(distances.topk(min(NEIGHBOURS, V - 1), largest=False).indices)
    return torch.cat(found)
