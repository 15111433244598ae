"""2-D rotary positions: queries and keys turn by angles that grow with the row and the column."""

from __future__ import annotations

import torch
from torch import Tensor


def rotary_table(
    grid: tuple[int, int], head_width: int, base: float, *, condition: int = 1, zero: bool = False
) -> Tensor:
    """Cosines and sines of every sequence slot, (S + T - 1, head_width / 2, 2).

    The first S = `condition` slots hold the condition and are not turned, or with `zero` are set to zero; each
    later slot holds a code and turns with that code's place: the first half of the pairs by its row, the second
    half by its column (RoFormer, arXiv:2104.09864, on two axes as in LlamaGen, arXiv:2406.06525).
    """
    h, w = grid
    pairs = head_width // 4
    frequencies = base ** (-torch.arange(pairs, dtype=torch.float64) / pairs)
    rows = torch.arange(h, dtype=torch.float64).outer(frequencies)[:, None].expand(h, w, pairs)
    columns = torch.arange(w, dtype=torch.float64).outer(frequencies)[None, :].expand(h, w, pairs)
    angles = torch.cat([rows, columns], dim=-1).flatten(0, 1)  # (T, head_width / 2)
    angles = torch.cat([angles.new_zeros(condition, 2 * pairs), angles[:-1]])
    table = torch.stack([angles.cos(), angles.sin()], dim=-1).float()
    if zero:
        table[:condition] = 0
    return table


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Turns neighbouring pairs of x (B, heads, S, head_width) by the table (S, head_width / 2, 2)."""
    # A complex product is one pass over memory; written with cosines and sines it takes twice the time.
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * torch.view_as_complex(table)).flatten(-2).to(x.dtype)
