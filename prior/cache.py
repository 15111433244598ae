"""Keys and values of the slots already decoded, in memory taken once."""

from __future__ import annotations

import torch
from torch import Tensor

from .config import PriorConfig


class KVCache:
    """Room for `rows` sequences of T slots; attention reads only the slots filled so far."""

    def __init__(self, config: PriorConfig, rows: int, device: torch.device, dtype: torch.dtype) -> None:
        shape = (config.depth, rows, config.heads, config.tokens, config.head_width)
        self.keys = torch.empty(shape, device=device, dtype=dtype)
        self.values = torch.empty(shape, device=device, dtype=dtype)

    def put(self, layer: int, slot: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Stores one slot's keys and values (rows, heads, 1, head_width) and returns all up to it."""
        self.keys[layer, :, :, slot : slot + 1] = keys
        self.values[layer, :, :, slot : slot + 1] = values
        return self.keys[layer, :, :, : slot + 1], self.values[layer, :, :, : slot + 1]
