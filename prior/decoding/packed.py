"""Linear layers whose weights can be laid out ahead for a few rows at a time on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SUM_ROWS = 2
"""Up to so many rows compiled sums over the weights as they are beat oneDNN's product: four layers and the head of
`llamagen-b` 7.05 ms a step against 4.79 at 2 rows, 6.63 against 7.01 at 4 (two Zen 5 cores, bf16, torch 2.13)."""


class Linear(nn.Linear):
    """`nn.Linear`, which inside `laid_out` reads weights in the order that oneDNN's kernels want.

    Otherwise they are put into that order anew at each call, which for a few rows takes as long as the product.
    The parameters stay what they are.
    """

    packed: Tensor | None = None
    """The weights in that order, where they are to be used."""
    kept: tuple[int, int, Tensor] | None = None
    """The same from the last time, with the address and the version of the weights that they were made of."""

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) to (..., out)."""
        if self.packed is None or x.dtype != self.packed.dtype:
            return F.linear(x, self.weight, self.bias)
        if not torch.compiler.is_compiling():
            return _product(x, self.packed, self.bias, len(self.weight))
        if x.numel() <= SUM_ROWS * x.shape[-1]:
            y = row_sums(x, self.weight)
            y = y if self.bias is None else y + self.bias
            return y.to(x.dtype).view(*x.shape[:-1], -1)
        return torch.ops.imgtf.packed_linear(x, self.packed, self.bias, len(self.weight))

    def pack(self) -> None:
        """Lays the weights out, unless they are as they were the last time."""
        made_of = self.weight.data_ptr(), self.weight._version
        if self.kept is None or self.kept[:2] != made_of or self.kept[2].dtype != self.weight.dtype:
            self.kept = (*made_of, torch.ops.mkldnn._reorder_linear_weight(self.weight.detach()))
        self.packed = self.kept[2]

    def __getstate__(self) -> dict[str, Any]:
        """Copies of a module lay out their own weights."""
        return self.__dict__ | {"packed": None, "kept": None}


def row_sums(x: Tensor, weight: Tensor) -> Tensor:
    """The product of a few rows x (..., in) with weights (out, in) as (rows, out) float32 sums, which inductor makes
    one loop of that reads the weights once.

    `as_strided` has x written down before it: else what it is made of, such as a norm, would be computed again for
    each row of the weights.
    """
    width = x.shape[-1]
    rows = x.float().contiguous().as_strided((x.numel() // width, width), (width, 1))
    return torch.stack([(row * weight.float()).sum(-1) for row in rows.unbind()])


def _product(x: Tensor, packed: Tensor, bias: Tensor | None, out: int) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")


# Inductor takes laid-out weights in its own products only where they are constants: it must not look into this one.
_library = torch.library.Library("imgtf", "DEF")
_library.define("packed_linear(Tensor x, Tensor packed, Tensor? bias, int out) -> Tensor")
_library.impl("packed_linear", _product, "CompositeExplicitAutograd")


@torch.library.register_fake("imgtf::packed_linear", lib=_library)
def _shape_of_product(x: Tensor, packed: Tensor, bias: Tensor | None, out: int) -> Tensor:
    return x.new_empty(*x.shape[:-1], out)


@contextmanager
def laid_out(module: nn.Module) -> Iterator[None]:
    """In the block the linear layers of the module read laid-out weights, where that is known to help.

    On a CPU, in the types that its matrix kernels have, without gradients. The memory that the weights take there is
    kept for the next time.
    """
    layers = [m for m in module.modules() if isinstance(m, Linear) and packable(m.weight)]
    try:
        for layer in layers:
            layer.pack()
        yield
    finally:
        for layer in layers:
            layer.packed = None


def packable(weight: Tensor) -> bool:
    """Whether weights can be laid out: on a CPU with oneDNN, float32, or bf16 where its kernels have it."""
    if weight.device.type != "cpu" or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return False
    if not torch.backends.mkldnn.is_available() or not torch.backends.mkldnn.enabled:
        return False
    bf16 = weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return bf16 or weight.dtype == torch.float32
