"""2-D rotary position embedding (RoFormer, arXiv:2104.09864, on two axes as in LlamaGen, arXiv:2406.06525).

Shapes: B batch, n tokens, T = h*w grid positions. A rotary table is (n, head_width / 2, 2): the cosine and sine of
each pair's angle.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Rotary(NamedTuple):
    """Rotary tables of the queries and of the keys, (n, head_width / 2, 2) or (B, 1, n, head_width / 2, 2) each."""

    query: Tensor
    key: Tensor


def grid_positions(grid: tuple[int, int], span: tuple[int, int] | None = None) -> Tensor:
    """Return the row and column of each grid position, (T, 2) float64; scaled to the grid `span` where one is given.

    Positions are cell centres, so a coarse grid is aligned with a fine one.
    """
    h, w = grid
    H, W = span or grid
    rows = (torch.arange(h, dtype=torch.float64) + 0.5) * H / h - 0.5
    columns = (torch.arange(w, dtype=torch.float64) + 0.5) * W / w - 0.5
    return torch.cartesian_prod(rows, columns)


def rotary_table(positions: Tensor, head_width: int, base: float) -> Tensor:
    """Return the rotary table (n, head_width / 2, 2) float32 of positions (n, 2), row and column.

    The first half of the pairs rotates by the row, the second half by the column. `head_width` is a multiple of 4.
    """
    pairs = head_width // 4
    frequencies = base ** (-torch.arange(pairs, dtype=torch.float64) / pairs)
    angles = torch.cat([positions[:, i : i + 1].double() * frequencies for i in (0, 1)], dim=-1)
    return torch.stack([angles.cos(), angles.sin()], dim=-1).float()


def prepend_unrotated(table: Tensor, n: int, *, zero: bool = False) -> Tensor:
    """Return a rotary table with n rows in front for tokens without a grid position.

    These tokens are not rotated, or multiplied by zero with `zero`.
    """
    front = table.new_zeros(n, *table.shape[1:])
    front[..., 0] = 0.0 if zero else 1.0
    return torch.cat([front, table])


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate neighbouring pairs of x (B, heads, n, head_width) by a table (n, head_width / 2, 2) or (B, 1, n, ...)."""
    if torch.compiler.is_compiling():  # inductor does not compile complex numbers
        a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
        cos, sin = table.unbind(-1)
        return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2).to(x.dtype)
    # A complex product reads the memory once; products with cosines and sines take twice the time.
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * torch.view_as_complex(table)).flatten(-2).to(x.dtype)
