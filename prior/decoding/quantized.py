"""Precision of a trained prior: float32, half precision, or 8-bit integer weights with bfloat16 for all else."""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .packed import SUM_ROWS, row_sums

KERNEL_ROWS = 12
"""Up to this many rows torch's int8 kernel is the faster product on a CPU; with more rows, converting the weights first
is. 2048 x 768, ms at 1, 8, 16, 64 rows: 0.04, 0.17, 0.34, 1.38 with the kernel, 0.20, 0.25, 0.31, 0.65 converted;
packed bfloat16: 0.04, 0.08, 0.14, 0.47 (two Zen 5 cores, torch 2.13)."""
KERNEL_WIDTH = 16
"""The kernel's input width must be a multiple of this: with other widths torch 2.13 reads past the end and crashes."""

Module = TypeVar("Module", bound=nn.Module)


class Int8Linear(nn.Module):
    """A linear layer with 8-bit weights, for inference: each row is integers in [-127, 127] times the row's scale.

    Only weights are rounded, not the input.
    """

    def __init__(self, layer: nn.Linear, dtype: torch.dtype = torch.bfloat16) -> None:
        super().__init__()
        weight = layer.weight.detach().float()
        scale = (weight.abs().amax(1) / 127).clamp_min(1e-12).to(dtype)  # rounded to its own type first
        rounded = (weight / scale.float()[:, None]).round_().clamp_(-127, 127)
        self.register_buffer("weight", rounded.to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().to(dtype))
        self.weight: Tensor  # (out, in)
        self.scale: Tensor  # (out,)
        self.bias: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., in) to (..., out)."""
        rows = x.numel() // x.shape[-1]
        if rows <= SUM_ROWS and torch.compiler.is_compiling():  # reads int8
            y = row_sums(x, self.weight) * self.scale.float()
            y = y.to(x.dtype).view(*x.shape[:-1], -1)
        elif rows <= KERNEL_ROWS and x.device.type == "cpu" and x.shape[-1] % KERNEL_WIDTH == 0:
            y = torch._weight_int8pack_mm(x.reshape(rows, -1), self.weight, self.scale)
            y = y.view(*x.shape[:-1], -1)
        else:
            y = F.linear(x, self.weight.to(x.dtype)) * self.scale
        return y if self.bias is None else y + self.bias


def cast(module: Module, dtype: torch.dtype) -> Module:
    """Cast a network in place and return it; int8 rounds the weights of linear layers and makes the rest bfloat16."""
    if dtype == torch.int8:
        for parent in list(module.modules()):
            for name, child in parent.named_children():
                if type(child) is nn.Linear:
                    setattr(parent, name, Int8Linear(child, compute_dtype(dtype)))
    return module.to(compute_dtype(dtype))


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the type of activations and of the cache for a type of weights."""
    return torch.bfloat16 if dtype == torch.int8 else dtype
