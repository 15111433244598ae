"""Orders in which codes are sampled.

An order is a permutation of the T grid positions, (T,), or one per row, (B, T), int64: entry t is the position that is
sampled t-th.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..config import ORDERS, PriorConfig, SamplingConfig


def sampling_order(
    config: PriorConfig, settings: SamplingConfig, keys: Tensor, known: Tensor, grid: tuple[int, int]
) -> Tensor:
    """Return the order (T,) or (B, T). Known positions (T,) bool come first, except with a raster prior.

    `keys` (B, T) are random numbers, which define the random orders.
    """
    T = grid[0] * grid[1]
    name = settings.order or ORDERS[config.objective][0]
    if config.objective == "raster":
        return torch.arange(T, device=keys.device)
    if name in ("random", "confidence"):
        return random_orders(torch.where(known, -1.0, keys))
    order = (halton_order(grid) if name == "halton" else torch.arange(T)).to(keys.device)
    return torch.cat([order[known[order]], order[~known[order]]])


def random_orders(keys: Tensor) -> Tensor:
    """Return orders (B, T) from random numbers (B, T); each row's order depends on its own numbers only."""
    return keys.argsort(dim=-1)


def halton_order(grid: tuple[int, int]) -> Tensor:
    """Return the grid positions in the order of a low-discrepancy sequence, (T,).

    Neighbours in the order are far apart on the grid, so that codes sampled together depend little on each other
    (Halton scheduler for MaskGIT, arXiv:2503.17076). Bases 2 and 3; each position counts at its first occurrence.
    """
    h, w = grid
    seen: dict[int, None] = {}
    n = 1
    while len(seen) < h * w:
        seen[int(_van_der_corput(n, 2) * h) * w + int(_van_der_corput(n, 3) * w)] = None
        n += 1
    return torch.tensor(list(seen))


def _van_der_corput(n: int, base: int) -> float:
    """Return the n-th number of the van der Corput sequence, in [0, 1)."""
    value, digit_value = 0.0, 1.0
    while n:
        digit_value /= base
        n, digit = divmod(n, base)
        value += digit_value * digit
    return value
