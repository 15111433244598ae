"""Keys and values of the slots already decoded, in memory taken once."""

from __future__ import annotations

import torch
from torch import Tensor

from ..config import PriorConfig

STRIDE = 32
"""On a CPU the slots in use grow by so many. A matrix product over the first slots of longer rows takes up to five
times as long as one over whole rows (bf16, 64 x 12 heads of 64, AMD Zen 5, torch 2.13); moving the rows apart seldom
costs little."""
GRAPH_STRIDE = 128
"""The same on a GPU, where each room in use is captured once (see `capture`)."""


class KVCache:
    """Room for `rows` sequences of `slots`; attention reads little more than the slots filled so far.

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
        self.heads, self.slots, self.width = config.key_heads, slots, config.head_width
        shape = (config.depth, rows * self.heads * slots * self.width)
        self.keys = torch.empty(shape, device=device, dtype=dtype)
        self.values = torch.empty(shape, device=device, dtype=dtype)
        self.stride = STRIDE if device.type == "cpu" else GRAPH_STRIDE
        self.used: list[tuple[Tensor, Tensor]] = [self._empty(rows, layer) for layer in range(config.depth)]
        """By layer the keys and values of the slots in use, (rows, key_heads, room, head_width), without gaps."""
        self.memory: list[tuple[Tensor, Tensor]] = []
        self.part = slice(None)

    @property
    def room(self) -> int:
        """Slots in use, filled or not yet."""
        return self.used[0][0].shape[2]

    def reserve(self, end: int) -> None:
        """Makes room for the slots up to `end` in every layer."""
        if end > self.room:
            room = min(self.slots, -(-end // self.stride) * self.stride)
            for layer, (keys, values) in enumerate(self.used):
                self.used[layer] = (
                    self._moved(keys, self.keys[layer], room),
                    self._moved(values, self.values[layer], room),
                )

    def layer(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the slots in use in one layer, (rows, key_heads, room, head_width) each.

        Behind the filled ones are slots of the past or zeros.
        """
        k, v = self.used[layer]
        return (k, v) if self.part == slice(None) else (k[self.part], v[self.part])

    def past(self, layer: int) -> tuple[Tensor, Tensor] | None:
        """Keys and values of cross-attention in one layer, where there is any."""
        return self.memory[layer] if self.memory else None

    def clear(self) -> None:
        """Forgets all slots; the memory stays."""
        rows = self.used[0][0].shape[0]
        self.used = [self._empty(rows, layer) for layer in range(len(self.used))]

    def rows(self, start: int, end: int) -> KVCache:
        """The same memory, seen as a cache of some of the rows."""
        part = object.__new__(KVCache)
        part.__dict__ |= self.__dict__
        part.part = slice(start, end)
        part.memory = [(k[start:end], v[start:end]) for k, v in self.memory]
        return part

    def _moved(self, old: Tensor, store: Tensor, room: int) -> Tensor:
        """The rows of a layer farther apart."""
        rows, filled = old.shape[0], old.shape[2]
        kept = old.clone()  # old and new lie in the same memory
        new = store[: rows * self.heads * room * self.width].view(rows, self.heads, room, self.width)
        new[:, :, :filled] = kept
        new[:, :, filled:] = 0  # what is hidden must still be finite
        return new

    def _empty(self, rows: int, layer: int) -> tuple[Tensor, Tensor]:
        keys, values = (
            store[layer, :0].view(rows, self.heads, 0, self.width) for store in (self.keys, self.values)
        )
        return keys, values
