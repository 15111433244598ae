"""Feed-forward layers, (..., D) -> (..., D)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class SwiGLU(nn.Module):
    """Gated feed-forward layer (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, width: int, intermediate_size: int, *, bias: bool = False) -> None:
        super().__init__()
        self.gate = nn.Linear(width, intermediate_size, bias=bias)
        self.up = nn.Linear(width, intermediate_size, bias=bias)
        self.down = nn.Linear(intermediate_size, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class GeluMLP(nn.Module):
    """Two linear layers around the exact GELU (GPT-2)."""

    def __init__(self, width: int, intermediate_size: int, *, bias: bool = False) -> None:
        super().__init__()
        self.up = nn.Linear(width, intermediate_size, bias=bias)
        self.down = nn.Linear(intermediate_size, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))
