"""In which order codes are drawn, and how many at a time.

An order is a permutation of the T places, (T,) or one a row (B, T) int64; entry t is the place drawn t-th.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..config import ORDERS, PriorConfig, SamplingConfig

MASKED_STEPS = 12
"""Steps of a masked prior unless told otherwise; benchmarks/RESULTS.md compares 4, 8 and 12 for one prior."""


def random_orders(keys: Tensor) -> Tensor:
    """Orders (B, T) from as many random numbers: a row's order depends on its own numbers alone."""
    return keys.argsort(dim=-1)


def halton_order(grid: tuple[int, int]) -> Tensor:
    """Places of the grid as a low-discrepancy sequence visits them, (T,).

    Neighbours in the sequence lie far apart, so codes drawn together depend little on each other (Halton scheduler
    for MaskGIT, arXiv:2503.17076). Bases 2 and 3; places come in the order of their first visit.
    """
    h, w = grid
    seen: dict[int, None] = {}
    n = 1
    while len(seen) < h * w:
        place = int(_halton(n, 2) * h) * w + int(_halton(n, 3) * w)
        seen[place] = None
        n += 1
    return torch.tensor(list(seen))


def _halton(n: int, base: int) -> float:
    """The n-th number of the van der Corput sequence, in [0, 1)."""
    value, share = 0.0, 1.0
    while n:
        share /= base
        n, digit = divmod(n, base)
        value += share * digit
    return value


def group_sizes(codes: int, steps: int, schedule: str) -> list[int]:
    """How many of `codes` each step draws: at least one, `codes` in all; at most as many steps as codes.

    even, or the difference of what MaskGIT leaves masked after a share r of the steps: cos(pi / 2 r).
    """
    steps = min(steps, codes)
    if steps == 0:
        return []
    shares = {
        "even": lambda r: 1 - r,
        "cosine": lambda r: math.cos(math.pi / 2 * r),
    }
    left = [round(codes * shares[schedule]((i + 1) / steps)) for i in range(steps)]
    left[-1] = 0
    for i in reversed(range(steps - 1)):  # every later step still has a code to draw
        left[i] = max(left[i], left[i + 1] + 1)
    for i in range(steps):  # and so has every earlier one
        left[i] = min(left[i], codes - i - 1)
    return [before - after for before, after in zip([codes, *left[:-1]], left, strict=True)]


def step_count(config: PriorConfig, settings: SamplingConfig) -> int:
    """Steps in which a grid is drawn."""
    if config.objective == "raster":
        return config.tokens
    default = MASKED_STEPS if config.objective == "masked" else config.tokens
    return min(settings.sampling_steps or default, config.tokens)


def drawing_order(
    config: PriorConfig, settings: SamplingConfig, keys: Tensor, known: Tensor, grid: tuple[int, int]
) -> Tensor:
    """The order of the places, (T,) or by row (B, T); known ones (T,) first unless the prior is a raster one."""
    T = grid[0] * grid[1]
    name = settings.order or ORDERS[config.objective][0]
    if config.objective == "raster":
        return torch.arange(T, device=keys.device)
    if name in ("random", "confidence"):
        return random_orders(torch.where(known, -1.0, keys))
    order = (halton_order(grid) if name == "halton" else torch.arange(T)).to(keys.device)
    return torch.cat([order[known[order]], order[~known[order]]])
