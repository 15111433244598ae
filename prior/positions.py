"""Where a slot stands: embeddings of the place to be predicted, and 2-D rotary angles.

A place is the raster index of a code, -1 that of the condition.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..errors import DataError
from .config import PriorConfig


class Places(NamedTuple):
    """What a run of n slots knows of where it is; with a leading B where the rows' orders differ."""

    place: Tensor
    """Place to be predicted, (n,) or (B, n) int64; negative in front of the codes."""
    added: Tensor | None
    """Added to the inputs, (n, D) or (B, n, D)."""
    query: Tensor | None
    """Cosines and sines that turn the queries, (n, head_width / 2, 2) or (B, 1, n, head_width / 2, 2)."""
    key: Tensor | None
    """The same for the keys."""
    target: Tensor | None
    """The same by the place to be predicted: for the queries of cross-attention."""

    def slice(self, start: int, end: int) -> Places:
        """Those of the slots from `start` to `end`."""
        return self._each(lambda t, dim: t.narrow(dim, start, end - start))

    def select(self, slot: Tensor) -> Places:
        """Those of one slot, whose number is a tensor (1,)."""
        return self._each(lambda t, dim: t.index_select(dim, slot))

    def repeat(self, rows: int) -> Places:
        """Where they are by row: for rows that hold the batch once or several times."""
        if self.place.dim() == 1 or rows == len(self.place):
            return self
        return self._each(lambda t, dim: torch.cat([t] * (rows // len(self.place))))

    def join(self, more: Places) -> Places:
        """Of these slots and then of more."""
        pairs = zip(self, more, _SLOT_DIM, strict=True)
        return Places(*(a if a is None or b is None else torch.cat([a, b], dim) for a, b, dim in pairs))  # type: ignore

    def _each(self, act: Callable[[Tensor, int], Tensor]) -> Places:
        """Acts on each part, given the dimension of its slots; what is one tensor stays one."""
        place, added, query, key, target = (
            None if t is None else act(t, dim) for t, dim in zip(self, _SLOT_DIM, strict=True)
        )
        assert place is not None
        return Places(place, added, key if self.query is self.key else query, key, target)


_SLOT_DIM = (-1, -2, -3, -3, -3)
"""Dimension of the slots in the parts of `Places`."""


class Positions(nn.Module):
    """Positions of the slots of a prior, as its configuration has them."""

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        self.config = config
        learned = config.positions == "learned"
        rows = config.prefix_length - (config.objective != "masked") + config.tokens
        self.learned = nn.Parameter(torch.empty(rows, config.width)) if learned else None

    def forward(self, held: Tensor, target: Tensor, grid: tuple[int, int], device: torch.device) -> Places:
        """Slots by the places of the codes that they hold and predict, (n,) or (B, n) int64 each on the CPU or GPU.

        In front of the codes both are negative: -S for the first of S condition slots, -1 for the last.

        Raises:
            DataError: for another grid than the trained one where positions are learned.
        """
        if self.learned is not None and grid != self.config.grid:
            raise DataError(f"learned positions know the grid {self.config.grid} only, not {grid}")
        rotary = self._rotary(grid, device) if self.config.rotary != "none" else None
        if rotary is None:
            return Places(target, self._added(target, grid, device), None, None, None)
        by_held, by_target = (rotary[(i + 1).clamp_min(0)] for i in (held, target))
        if held.dim() == 2:
            by_held, by_target = by_held[:, None], by_target[:, None]
        query = by_target if self.config.rotary == "target" else by_held
        return Places(target, self._added(target, grid, device), query, by_held, by_target)

    def _added(self, target: Tensor, grid: tuple[int, int], device: torch.device) -> Tensor | None:
        if self.learned is not None:
            return self.learned[target + len(self.learned) - self.config.tokens]
        if self.config.positions == "none":
            return None
        return _sinusoids(grid, self.config.width, self.config.positions, device)[(target + 1).clamp_min(0)]

    def _rotary(self, grid: tuple[int, int], device: torch.device) -> Tensor:
        """(1 + T, head_width / 2, 2): first the condition, which is not turned, or with `zero_condition` zero."""
        return _rotary_of_grid(
            grid, self.config.head_width, self.config.rope_base, self.config.zero_condition, device
        )


def rotary_table(places: Tensor, head_width: int, base: float) -> Tensor:
    """Cosines and sines of places (n, 2), row and column, (n, head_width / 2, 2) float32.

    The first half of the pairs turns by the row, the second half by the column (RoFormer, arXiv:2104.09864, on two
    axes as in LlamaGen, arXiv:2406.06525).
    """
    pairs = head_width // 4
    frequencies = base ** (-torch.arange(pairs, dtype=torch.float64) / pairs)
    angles = torch.cat([places[:, i : i + 1].double() * frequencies for i in (0, 1)], dim=-1)
    return torch.stack([angles.cos(), angles.sin()], dim=-1).float()


def grid_places(grid: tuple[int, int], span: tuple[int, int] | None = None) -> Tensor:
    """Row and column of every place of a grid, (T, 2) float64; stretched over the `span` of another grid.

    Places are centres of cells, so that a coarse grid lies evenly upon a fine one.
    """
    h, w = grid
    H, W = span or grid
    rows = (torch.arange(h, dtype=torch.float64) + 0.5) * H / h - 0.5
    columns = (torch.arange(w, dtype=torch.float64) + 0.5) * W / w - 0.5
    return torch.cartesian_prod(rows, columns)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Turns neighbouring pairs of x (B, heads, n, head_width) by a table (n, head_width / 2, 2) or (B, 1, n, ...)."""
    if torch.compiler.is_compiling():  # complex numbers do not compile
        a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
        cos, sin = table.unbind(-1)
        return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2).to(x.dtype)
    # A complex product is one pass over memory; written with cosines and sines it takes twice the time.
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * torch.view_as_complex(table)).flatten(-2).to(x.dtype)


def sinusoidal_table(places: Tensor, width: int) -> Tensor:
    """Sines and cosines of places (n,), (n, width) (Vaswani et al. 2017, arXiv:1706.03762, section 3.5)."""
    frequencies = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = places.double()[:, None] * frequencies
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width].float()


@cache
def _rotary_of_grid(
    grid: tuple[int, int], head_width: int, base: float, zero: bool, device: torch.device
) -> Tensor:
    turned = rotary_table(grid_places(grid), head_width, base)
    unturned = torch.zeros_like(turned[:1])
    unturned[..., 0] = 0.0 if zero else 1.0
    return torch.cat([unturned, turned]).to(device)


@cache
def _sinusoids(grid: tuple[int, int], width: int, kind: str, device: torch.device) -> Tensor:
    if kind == "sinusoidal":
        table = sinusoidal_table(torch.arange(grid[0] * grid[1]), width)
    else:
        rows, columns = grid_places(grid).T
        half = width // 2
        table = torch.cat([sinusoidal_table(rows, half), sinusoidal_table(columns, width - half)], dim=-1)
    # The size that learned embeddings start with: at 1 it would drown the codes' 0.02.
    return torch.cat([torch.zeros_like(table[:1]), 0.02 * table]).to(device)
