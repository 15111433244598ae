"""From logits to codes: guidance, temperature, what is kept of the probabilities, and the choice.

Shapes: B images, k codes drawn in one step, V codebook size.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .config import SamplingConfig


def drawn_shares(done: int, sizes: list[int], T: int) -> list[float]:
    """How much of the grid is drawn at the start of each step, 0 at the first code of all and 1 at the last."""
    starts = [done + sum(sizes[:i]) for i in range(len(sizes))]
    return [start / max(1, T - 1) for start in starts]


def guidance(settings: SamplingConfig, share: float) -> float:
    """Weight of guidance when `share` of the grid is drawn (power-cosine: RAR's, arXiv:2411.00776)."""
    rise = {
        "constant": 1.0,
        "linear": share,
        "cosine": (1 - math.cos(math.pi * share)) / 2,
        "power-cosine": (1 - math.cos(math.pi * share**settings.cfg_power)) / 2,
    }[settings.cfg_schedule]
    return 1 + (settings.cfg_scale - 1) * rise


def temperature(settings: SamplingConfig, share: float) -> float:
    """Temperature when `share` of the grid is drawn."""
    end = settings.temperature if settings.final_temperature is None else settings.final_temperature
    return settings.temperature + (end - settings.temperature) * min(1.0, share)


def guide(logits: Tensor, scale: float) -> Tensor:
    """Logits (2B, ...), first with the condition and then without, to guided logits (B, ...)."""
    conditional, unconditional = logits.chunk(2)
    return unconditional + scale * (conditional - unconditional)


def probabilities(logits: Tensor, settings: SamplingConfig, temperature: float) -> Tensor:
    """Logits (..., V) to the float64 probabilities left by temperature, top-k, min-p and top-p, in that order."""
    logits = logits.double() / temperature
    if 0 < settings.top_k < logits.shape[-1]:
        kth = logits.topk(settings.top_k).values[..., -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    p = logits.softmax(-1)
    if settings.min_p > 0:
        p = p.masked_fill(p < settings.min_p * p.amax(-1, keepdim=True), 0)
    if settings.top_p < 1:
        p = keep_top_p(p / p.sum(-1, keepdim=True), settings.top_p)
    return p / p.sum(-1, keepdim=True)


def keep_top_p(p: Tensor, top_p: float) -> Tensor:
    """Zeroes all but the likeliest codes whose total first reaches top_p (nucleus, arXiv:1904.09751)."""
    ordered, index = p.sort(descending=True)
    before = ordered.cumsum(-1) - ordered
    return torch.zeros_like(p).scatter(-1, index, ordered.masked_fill(before >= top_p, 0))


def choose(p: Tensor, uniform: Tensor) -> Tensor:
    """Inverts the cumulative distribution: p (..., V), uniform (...) in [0, 1) to codes (...)."""
    cumulative = p.cumsum(-1)
    target = uniform[..., None] * cumulative[..., -1:]  # rounding may leave the total beside 1
    return torch.searchsorted(cumulative, target, right=True).squeeze(-1).clamp_(max=p.shape[-1] - 1)
