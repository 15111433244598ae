"""From logits to codes: guidance, temperature, filters, and the choice of a code.

To add a filter, write a function here, add it to `LOGIT_FILTERS` or `PROBABILITY_FILTERS`, and its setting to
`SamplingConfig`. A filter that is off returns its input: a pass over all V codes costs time.

Shapes: V codebook size; all other dimensions are free.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..config import SamplingConfig

COLUMN = 16
"""Size of the columns in the search for the k largest, see `kth_largest`."""
BLOCK = 128
"""Codes that are summed together, see `choose`."""

Filter = Callable[[Tensor, SamplingConfig], Tensor]


def keep_top_k(logits: Tensor, settings: SamplingConfig) -> Tensor:
    """Keep the k largest logits."""
    if not 0 < settings.top_k < logits.shape[-1]:
        return logits
    # A tensor made on the device: a CUDA graph cannot hold a number that comes from the host.
    removed = logits.new_full((), -torch.inf)
    return torch.where(logits < kth_largest(logits, settings.top_k), removed, logits)


def keep_min_p(p: Tensor, settings: SamplingConfig) -> Tensor:
    """Keep probabilities of at least `min_p` times the largest one (arXiv:2407.01082)."""
    if settings.min_p <= 0:
        return p
    return _normalised(p.masked_fill(p < settings.min_p * p.amax(-1, keepdim=True), 0))


def keep_top_p(p: Tensor, settings: SamplingConfig) -> Tensor:
    """Keep the most likely codes, up to the first total of at least `top_p` (nucleus sampling, arXiv:1904.09751)."""
    if settings.top_p >= 1:
        return p
    ordered, index = p.sort(descending=True)
    before = ordered.cumsum(-1) - ordered
    return _normalised(
        torch.zeros_like(p).scatter(-1, index, ordered.masked_fill(before >= settings.top_p, 0))
    )


LOGIT_FILTERS: tuple[Filter, ...] = (keep_top_k,)
"""Applied to the logits in this order, after the temperature."""
PROBABILITY_FILTERS: tuple[Filter, ...] = (keep_min_p, keep_top_p)
"""Applied to the probabilities in this order."""


def guide(logits: Tensor, scale: float | Tensor) -> Tensor:
    """Return guided logits (B, ...) from logits (2B, ...): first the conditional, then the unconditional ones."""
    conditional, unconditional = logits.chunk(2)
    return unconditional + scale * (conditional - unconditional)


def probabilities(logits: Tensor, settings: SamplingConfig, temperature: float | Tensor | None) -> Tensor:
    """Return the probabilities (..., V) float32 of logits (..., V) after temperature and filters.

    Args:
        temperature: None is 1; a tensor (1,) may change between replays of a captured step.
    """
    logits = logits.float()
    if isinstance(temperature, Tensor) or temperature not in (None, 1):
        logits = logits / temperature
    for keep in LOGIT_FILTERS:
        logits = keep(logits, settings)
    p = logits.softmax(-1)
    for keep in PROBABILITY_FILTERS:
        p = keep(p, settings)
    return p


def draw_codes(
    logits: Tensor, uniform: Tensor, settings: SamplingConfig, temperature: float | Tensor | None
) -> Tensor:
    """Return codes (...) from logits (..., V) and uniform numbers (...) in [0, 1)."""
    return choose(probabilities(logits, settings, temperature), uniform)


def choose(p: Tensor, uniform: Tensor) -> Tensor:
    """Invert the cumulative distribution: p (..., V) and uniform numbers (...) in [0, 1) to codes (...).

    Sums are float64. With many codes, only blocks of codes are summed, and then the codes of one block.
    """
    V = p.shape[-1]
    uniform = uniform[..., None].double()
    if V % BLOCK or V == BLOCK:
        return _invert(p.double(), uniform)[0].squeeze(-1)
    blocks = p.unflatten(-1, (-1, BLOCK))  # (..., V / BLOCK, BLOCK)
    block, remainder = _invert(blocks.sum(-1).double(), uniform)
    within = blocks.gather(-2, block[..., None].expand(*block.shape, BLOCK)).squeeze(-2)
    return (block * BLOCK + _invert(within.double(), remainder)[0]).squeeze(-1)


def _invert(p: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Return which of p (..., n) the uniform numbers (..., 1) fall on, and how far into it in [0, 1), (..., 1) each."""
    cumulative = p.cumsum(-1)
    target = uniform * cumulative[..., -1:]  # the total may differ from 1 by rounding
    index = torch.searchsorted(cumulative, target, right=True).clamp_(max=p.shape[-1] - 1)
    within = 1 - (cumulative.gather(-1, index) - target) / p.gather(-1, index)
    # Below 1, so that a second search ends at the last possible code and not behind it.
    return index, within.clamp_(0, 1 - 2**-52)


def kth_largest(x: Tensor, k: int) -> Tensor:
    """Return the k-th largest of each row of x (..., V), (..., 1).

    With many numbers, candidates are found first: the k columns of `COLUMN` numbers each with the largest maxima.
    (64 rows of 16,384: the whole choice with top-k takes 3.5 instead of 5.6 ms, on two Zen 5 cores.)
    """
    V = x.shape[-1]
    if V % COLUMN or 4 * k * COLUMN > V:
        return x.topk(k, sorted=False).values.amin(-1, keepdim=True)
    columns = x.unflatten(-1, (COLUMN, -1))  # (..., COLUMN, V / COLUMN)
    top = columns.amax(-2).topk(k, sorted=False).indices[..., None, :]
    candidates = columns.gather(-1, top.expand(*columns.shape[:-1], k)).flatten(-2)
    return candidates.topk(k, sorted=False).values.amin(-1, keepdim=True)


def _normalised(p: Tensor) -> Tensor:
    return p / p.sum(-1, keepdim=True)
