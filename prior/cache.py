"""Keys and values of the slots already decoded, in memory taken once."""

from __future__ import annotations

import torch
from torch import Tensor

from .config import PriorConfig


class KVCache:
    """Room for `rows` sequences of slots; attention reads only the slots filled so far.

    `visible` (rows, S) names the condition's slots that are not padding; None stands for all.
    """

    def __init__(
        self,
        config: PriorConfig,
        rows: int,
        device: torch.device,
        dtype: torch.dtype,
        visible: Tensor | None = None,
    ) -> None:
        shape = (config.depth, rows, config.heads, config.slots, config.head_width)
        self.visible = visible
        self.keys = torch.empty(shape, device=device, dtype=dtype)
        self.values = torch.empty(shape, device=device, dtype=dtype)

    def put(self, layer: int, slot: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Stores keys and values (rows, heads, n, head_width) from `slot` on and returns all up to their end."""
        end = slot + keys.shape[2]
        self.keys[layer, :, :, slot:end] = keys
        self.values[layer, :, :, slot:end] = values
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]
