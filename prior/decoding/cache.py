"""The KV cache: keys and values of the positions decoded so far, in memory that is allocated once."""

from __future__ import annotations

import torch
from torch import Tensor

from ...nn.attention import LayerCache
from ..config import PriorConfig

CPU_STRIDE = 32
"""The capacity grows in steps of this many positions. On a CPU a matrix product over the first positions of longer
rows takes up to five times as long as one over contiguous rows (bf16, 64 x 12 heads of 64, AMD Zen 5, torch 2.13);
copying the rows to a larger capacity now and then costs little."""
GPU_STRIDE = 128
"""The same on a GPU, where each capacity needs its own CUDA graph."""


class KVCache:
    """Keys and values of `rows` sequences of up to `length` positions, for all layers.

    Attention reads `capacity` positions, which grows with the sequence. `cross` holds the keys and values of the
    encoder states per layer, (rows, key_heads, L, head_width) each.
    """

    def __init__(
        self, config: PriorConfig, rows: int, length: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.heads, self.length, self.width = config.key_heads, length, config.head_width
        shape = (config.depth, rows * self.heads * length * self.width)
        self.keys = torch.empty(shape, device=device, dtype=dtype)
        self.values = torch.empty(shape, device=device, dtype=dtype)
        self.stride = CPU_STRIDE if device.type == "cpu" else GPU_STRIDE
        self.layers: list[tuple[Tensor, Tensor]] = [self._empty(rows, layer) for layer in range(config.depth)]
        """Keys and values per layer, (rows, key_heads, capacity, head_width) each, contiguous."""
        self.cross: list[tuple[Tensor, Tensor]] = []
        self.part = slice(None)

    @property
    def capacity(self) -> int:
        """Positions that attention reads, filled or not."""
        return self.layers[0][0].shape[2]

    def reserve(self, end: int) -> None:
        """Grow the capacity to at least `end` positions."""
        if end > self.capacity:
            capacity = min(self.length, -(-end // self.stride) * self.stride)
            for layer, (keys, values) in enumerate(self.layers):
                self.layers[layer] = (
                    self._grown(keys, self.keys[layer], capacity),
                    self._grown(values, self.values[layer], capacity),
                )

    def layer(self, layer: int, position: int | Tensor, bias: Tensor | None = None) -> LayerCache:
        """Return one layer as attention takes it. Positions that are not filled hold old values or zeros."""
        k, v = self.layers[layer]
        if self.part != slice(None):
            k, v = k[self.part], v[self.part]
        return LayerCache(k, v, position, bias)

    def clear(self) -> None:
        """Forget all positions; the encoder states stay."""
        rows = self.layers[0][0].shape[0]
        self.layers = [self._empty(rows, layer) for layer in range(len(self.layers))]

    def rows(self, start: int, end: int) -> KVCache:
        """Return a view of some rows, in the same memory."""
        view = object.__new__(KVCache)
        view.__dict__ |= self.__dict__
        view.part = slice(start, end)
        view.cross = [(k[start:end], v[start:end]) for k, v in self.cross]
        return view

    def _grown(self, old: Tensor, storage: Tensor, capacity: int) -> Tensor:
        """Copy the rows of a layer to a larger capacity."""
        rows, filled = old.shape[0], old.shape[2]
        kept = old.clone()  # old and new share memory
        new = storage[: rows * self.heads * capacity * self.width].view(
            rows, self.heads, capacity, self.width
        )
        new[:, :, :filled] = kept
        new[:, :, filled:] = 0  # masked values must still be finite
        return new

    def _empty(self, rows: int, layer: int) -> tuple[Tensor, Tensor]:
        keys, values = (
            storage[layer, :0].view(rows, self.heads, 0, self.width) for storage in (self.keys, self.values)
        )
        return keys, values
