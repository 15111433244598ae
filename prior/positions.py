"""Positions of tokens: the embedding added to them, and their 2-D rotary embedding.

A grid position is the raster index of a code; prefix tokens have negative ones. Shapes: B batch, n tokens, h, w grid,
T = h*w grid positions, S prefix length, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..errors import DataError
from ..nn.rotary import Rotary, grid_positions, prepend_unrotated, rotary_table
from .config import PriorConfig


class TokenPositions(NamedTuple):
    """Positions of n tokens; every field has a leading B where the rows have different orders."""

    target: Tensor
    """Grid position that each token predicts, (n,) or (B, n) int64; negative within the prefix."""
    embedding: Tensor | None
    """Position embedding, (n, D) or (B, n, D)."""
    query: Tensor | None
    """Rotary table of the queries, (n, head_width / 2, 2) or (B, 1, n, head_width / 2, 2)."""
    key: Tensor | None
    """Rotary table of the keys."""
    cross_query: Tensor | None
    """Rotary table of the queries of cross-attention, by target."""

    @property
    def rotary(self) -> Rotary | None:
        """Rotary tables of self-attention."""
        return None if self.query is None or self.key is None else Rotary(self.query, self.key)

    def slice(self, start: int, end: int) -> TokenPositions:
        """Return the tokens `start` to `end` of the sequence."""
        return self._map(lambda t, dim: t.narrow(dim, start, end - start))

    def select(self, position: Tensor) -> TokenPositions:
        """Return one token, whose position in the sequence is a tensor (1,)."""
        return self._map(lambda t, dim: t.index_select(dim, position))

    def repeat(self, rows: int) -> TokenPositions:
        """Return the positions of `rows` rows, which hold the batch once or several times."""
        if self.target.dim() == 1 or rows == len(self.target):
            return self
        return self._map(lambda t, dim: torch.cat([t] * (rows // len(self.target))))

    def cat(self, other: TokenPositions) -> TokenPositions:
        """Return these tokens followed by the others."""
        pairs = zip(self, other, _TOKEN_DIM, strict=True)
        return TokenPositions(*(a if a is None or b is None else torch.cat([a, b], d) for a, b, d in pairs))  # type: ignore

    def _map(self, function: Callable[[Tensor, int], Tensor]) -> TokenPositions:
        """Apply a function to each field, given its token dimension; once to fields that are the same tensor."""
        done: dict[int, Tensor] = {}
        for t, dim in zip(self, _TOKEN_DIM, strict=True):
            if t is not None and id(t) not in done:
                done[id(t)] = function(t, dim)
        return TokenPositions(*(None if t is None else done[id(t)] for t in self))  # type: ignore[arg-type]


_TOKEN_DIM = (-1, -2, -3, -3, -3)
"""Dimension of the tokens in each field of `TokenPositions`."""


class Positions(nn.Module):
    """Positions of the tokens of a prior, as its configuration defines them."""

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        self.config = config
        rows = config.prefix_length - (config.objective != "masked") + config.tokens
        learned = config.positions == "learned"
        self.learned = nn.Parameter(torch.empty(rows, config.width)) if learned else None

    def forward(
        self, held: Tensor, target: Tensor, grid: tuple[int, int], device: torch.device
    ) -> TokenPositions:
        """Return the positions of tokens that hold and predict the codes at given grid positions.

        Args:
            held: (n,) or (B, n) int64; -S for the first of S prefix tokens, -1 for the last.
            target: the same shape, negative within the prefix.

        Raises:
            DataError: for another grid than the trained one where positions are learned.
        """
        if self.learned is not None and grid != self.config.grid:
            raise DataError(
                f"a prior with learned positions works only with its own grid {self.config.grid}, not {grid}"
            )
        embedding = self._embedding(target, grid, device)
        if self.config.rotary == "none":
            return TokenPositions(target, embedding, None, None, None)
        table = self._rotary(grid, device)
        by_held, by_target = (table[(i + 1).clamp_min(0)] for i in (held, target))
        if held.dim() == 2:
            by_held, by_target = by_held[:, None], by_target[:, None]
        query = by_target if self.config.rotary == "target" else by_held
        return TokenPositions(target, embedding, query, by_held, by_target)

    def in_order(self, order: Tensor | None, grid: tuple[int, int], device: torch.device) -> TokenPositions:
        """Return the positions of a causal sequence (S + T - 1 tokens) in an order (T,) or (B, T); raster by default.

        Each token holds a code and predicts the next one of the order.
        """
        S, T = self.config.prefix_length, grid[0] * grid[1]
        order = torch.arange(T, device=device) if order is None else order
        prefix = torch.arange(-S, 0, device=device).expand(*order.shape[:-1], S)
        held = torch.cat([prefix, order[..., :-1]], dim=-1)  # (..., S+T-1)
        target = torch.cat([prefix[..., 1:], order], dim=-1)
        return self(held, target, grid, device)

    def _embedding(self, target: Tensor, grid: tuple[int, int], device: torch.device) -> Tensor | None:
        if self.learned is not None:
            return self.learned[target + len(self.learned) - self.config.tokens]
        if self.config.positions == "none":
            return None
        return _sinusoids(grid, self.config.width, self.config.positions, device)[(target + 1).clamp_min(0)]

    def _rotary(self, grid: tuple[int, int], device: torch.device) -> Tensor:
        """Rotary table (1 + T, head_width / 2, 2), first that of prefix tokens."""
        config = self.config
        return _rotary_of_grid(grid, config.head_width, config.rope_base, config.zero_condition, device)


def sinusoidal_table(positions: Tensor, width: int) -> Tensor:
    """Return sines and cosines of positions (n,), (n, width) (Vaswani et al. 2017, arXiv:1706.03762, section 3.5)."""
    frequencies = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = positions.double()[:, None] * frequencies
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width].float()


@cache
def _rotary_of_grid(
    grid: tuple[int, int], head_width: int, base: float, zero: bool, device: torch.device
) -> Tensor:
    table = rotary_table(grid_positions(grid), head_width, base)
    return prepend_unrotated(table, 1, zero=zero).to(device)


@cache
def _sinusoids(grid: tuple[int, int], width: int, kind: str, device: torch.device) -> Tensor:
    if kind == "sinusoidal":
        table = sinusoidal_table(torch.arange(grid[0] * grid[1]), width)
    else:
        rows, columns = grid_positions(grid).T
        half = width // 2
        table = torch.cat([sinusoidal_table(rows, half), sinusoidal_table(columns, width - half)], dim=-1)
    # Scaled to the initial size of learned embeddings: the code embeddings have a standard deviation of 0.02.
    return torch.cat([torch.zeros_like(table[:1]), 0.02 * table]).to(device)
