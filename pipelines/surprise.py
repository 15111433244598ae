"""How unlikely a prior finds each code of an image.

Shapes: B images, T = h*w tokens, V codebook size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..prior.conditions.condition import Condition
from ..prior.model import Prior

CHUNK = 2**25
"""Logits computed at once."""


class Surprise(NamedTuple):
    """Bits of each code, (B, T) float64 by position. Their sum is that of the image."""

    bits: Tensor
    """-log2 of the probability of the code."""
    expected: Tensor
    """The mean of `bits` under the prior's own distribution: its entropy."""
    variance: Tensor
    """The variance of `bits` under that distribution."""


@torch.no_grad()
def surprise(prior: Prior, codes: Tensor, condition: Condition, orders: int) -> Surprise:
    """Return the surprise of codes (B, T) on the CPU.

    - raster: exact, each code given those before it.
    - random: the mean over `orders` random orders, each of them exact.
    - masked: an estimate of the mean over all orders, see `masked_passes`.
    """
    total = torch.zeros(3, *codes.shape, dtype=torch.float64)
    for weight, targets, logits in _passes(prior, codes, condition, orders):
        terms = torch.stack([_of_logits(*row) for row in zip(logits, codes, strict=True)], 1)  # (3, B, T)
        total += weight * (terms * targets).cpu()
    return Surprise(*total)


def batch_size(prior: Prior) -> int:
    """Images whose logits are computed at once."""
    return max(1, min(64, CHUNK // (prior.config.tokens * prior.config.codebook_size)))


def shifted_orders(tokens: int, count: int, generator: torch.Generator) -> Tensor:
    """Return `count` orders (count, T): a random one, started at evenly spread places.

    So the number of codes before a position is evenly spread too, and a mean over few orders varies less.
    """
    order = torch.randperm(tokens, generator=generator)
    return torch.stack([order.roll(tokens * i // count) for i in range(count)])


def masked_passes(tokens: int, most: int, generator: torch.Generator) -> Iterator[tuple[float, Tensor]]:
    """Yield the weight and the mask (T,) of each pass of a masked prior.

    The mean over all orders is an integral of -log p(code | a random fraction r of the others) over r in [0, 1] (Uria
    et al. 2014, arXiv:1310.1757). It is computed at r = 0, 1/2, 3/4, ..., 1 - 1/`most` with the trapezoidal rule; the
    last interval takes the value of its start. The positions are split at random into 1, 2, 4, ... parts, and each part
    is predicted from the others, so that each position counts once at every r.
    """
    levels = [2**i for i in range(most.bit_length())]
    known = [1 - 1 / parts for parts in levels]
    for i, parts in enumerate(levels):
        before = (known[i] - known[i - 1]) / 2 if i else 0.0
        after = (known[i + 1] - known[i]) / 2 if i + 1 < len(levels) else 1 - known[i]
        part = torch.randperm(tokens, generator=generator) % parts
        for own in range(min(parts, tokens)):
            yield before + after, part == own


def _passes(
    prior: Prior, codes: Tensor, condition: Condition, orders: int
) -> Iterator[tuple[float, Tensor, Tensor]]:
    """Yield the weight, the positions that count (T,) and the logits (B, T, V) of each pass."""
    tokens, generator = codes.shape[1], torch.Generator().manual_seed(0)
    everywhere = torch.ones(tokens, dtype=torch.bool, device=codes.device)
    if prior.config.objective == "raster":
        yield 1.0, everywhere, prior(codes, **condition)
    elif prior.config.objective == "random":
        for order in shifted_orders(tokens, orders, generator):
            yield 1 / orders, everywhere, prior(codes, **condition, order=order.to(codes.device))
    else:
        for weight, mask in masked_passes(tokens, orders, generator):
            mask = mask.to(codes.device)
            yield weight, mask, prior(codes.masked_fill(mask, -1), **condition)


def _of_logits(logits: Tensor, codes: Tensor) -> Tensor:
    """Return bits, their mean and their variance (3, T) float64 of one image's codes (T,) under logits (T, V)."""
    log_p = logits.float().log_softmax(-1) / math.log(2)
    p = log_p.exp2()
    expected = -(p * log_p).sum(-1)
    variance = (p * (log_p + expected[:, None]).square()).sum(-1)
    return torch.stack([-log_p.gather(-1, codes[:, None])[:, 0], expected, variance]).double()
