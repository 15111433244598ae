"""Keys and values of the slots already decoded, in memory taken once."""

from __future__ import annotations

import torch
from torch import Tensor

from .config import PriorConfig


class KVCache:
    """Room for `rows` sequences of `slots`; attention reads only the slots filled so far.

    `memory` holds the keys and values of cross-attention by layer, (rows, key_heads, M, head_width) each.
    """

    def __init__(
        self,
        config: PriorConfig,
        rows: int,
        slots: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        shape = (config.depth, rows, config.key_heads, slots, config.head_width)
        self.keys = torch.empty(shape, device=device, dtype=dtype)
        self.values = torch.empty(shape, device=device, dtype=dtype)
        self.memory: list[tuple[Tensor, Tensor]] = []

    def put(self, layer: int, slot: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Stores keys and values (rows, key_heads, n, head_width) from `slot` on, returns all up to their end."""
        end = slot + keys.shape[2]
        self.keys[layer, :, :, slot:end] = keys
        self.values[layer, :, :, slot:end] = values
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def rows(self, start: int, end: int) -> KVCache:
        """The same memory, seen as a cache of some of the rows."""
        part = object.__new__(KVCache)
        part.keys, part.values = self.keys[:, start:end], self.values[:, start:end]
        part.memory = [(k[start:end], v[start:end]) for k, v in self.memory]
        return part
