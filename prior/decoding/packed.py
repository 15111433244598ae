"""Linear layers with weights in oneDNN's memory layout, for products with a few rows on a CPU.

Without packing, oneDNN reorders the weights in every call, which takes as long as a product with a few rows.
"""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..network import PriorNetwork

Module = TypeVar("Module", bound=nn.Module)

SUM_ROWS = 2
"""Up to this many rows compiled code sums over the plain weights instead of calling oneDNN: four layers and the head
of `llamagen-b` take 4.79 instead of 7.05 ms per step with 2 rows, and 7.01 instead of 6.63 with 4 (two Zen 5 cores,
bf16, torch 2.13)."""


class PackedLinear(nn.Linear):
    """A linear layer that shares the parameters of another one and holds their packed copy."""

    packed: Tensor | None
    """The packed weights, None where packing does not apply."""
    source: tuple[int, int, torch.dtype] | None
    """Address, version and type of the weights that were packed."""

    @classmethod
    def of(cls, layer: nn.Linear) -> PackedLinear:
        """Return a layer that shares the parameters of `layer`; `refresh` packs them."""
        packed = cls.__new__(cls)
        packed.__dict__ |= layer.__dict__ | {"packed": None, "source": None}
        return packed

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., in) to (..., out)."""
        if self.packed is None or x.dtype != self.packed.dtype:
            return F.linear(x, self.weight, self.bias)
        if not torch.compiler.is_compiling():
            return _packed_product(x, self.packed, self.bias, len(self.weight))
        if x.numel() <= SUM_ROWS * x.shape[-1]:
            y = row_sums(x, self.weight)
            y = y if self.bias is None else y + self.bias
            return y.to(x.dtype).view(*x.shape[:-1], -1)
        return torch.ops.imgtf.packed_linear(x, self.packed, self.bias, len(self.weight))

    def refresh(self) -> None:
        """Pack the weights where that applies now, unless they have not changed since the last time."""
        if not packable(self.weight):
            self.packed = self.source = None
            return
        source = self.weight.data_ptr(), self.weight._version, self.weight.dtype
        if source != self.source:
            self.packed = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach())
            self.source = source


def decoding_layers(network: PriorNetwork) -> list[nn.Linear]:
    """Return the linear layers that every decoding step runs: those of the blocks, and the head."""
    modules = (*network.blocks.modules(), network.head)
    linear = (module for module in modules if isinstance(module, nn.Linear))
    return [layer for layer in linear if type(layer) in (nn.Linear, PackedLinear)]


def decoding_view(network: PriorNetwork) -> PriorNetwork:
    """Return the network with packed layers and in evaluation mode, in modules of its own that share all tensors.

    Parameters, buffers and hooks are those of the network: changes to them apply to the view.
    """
    packed = {id(layer): PackedLinear.of(layer) for layer in decoding_layers(network)}
    return _share(network, packed).eval()


def _share(module: Module, replaced: dict[int, PackedLinear]) -> Module:
    """Return a copy of a tree of modules that shares everything but the modules; some are replaced, by their id."""
    if id(module) in replaced:
        return replaced[id(module)]  # type: ignore[return-value]
    copy = object.__new__(type(module))
    # A `forward` of the instance, for instance from Accelerate or `torch.compiler.disable`, is bound to the original.
    copy.__dict__ |= {name: value for name, value in module.__dict__.items() if name != "forward"}
    copy._modules = {
        name: None if child is None else _share(child, replaced) for name, child in module._modules.items()
    }
    return copy


def packable(weight: Tensor) -> bool:
    """Whether weights can be packed: on a CPU with oneDNN, float32, or bf16 where its kernels support that.

    Not while gradients are computed or autocast is on.
    """
    if weight.device.type != "cpu" or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return False
    if not torch.backends.mkldnn.is_available() or not torch.backends.mkldnn.enabled:
        return False
    bf16 = weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return bf16 or weight.dtype == torch.float32


def row_sums(x: Tensor, weight: Tensor) -> Tensor:
    """Return the product of a few rows x (..., in) with weights (out, in), as (rows, out) float32 sums.

    inductor makes one loop of it, which reads the weights once. `as_strided` makes inductor store x first; otherwise
    it would compute what x is made from, for instance a norm, again for each row of the weights.
    """
    width = x.shape[-1]
    rows = x.float().contiguous().as_strided((x.numel() // width, width), (width, 1))
    return torch.stack([(row * weight.float()).sum(-1) for row in rows.unbind()])


def _packed_product(x: Tensor, packed: Tensor, bias: Tensor | None, out: int) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")


# inductor supports packed weights in its own products only where they are constants. A custom operator hides them.
_library = torch.library.Library("imgtf", "DEF")
_library.define("packed_linear(Tensor x, Tensor packed, Tensor? bias, int out) -> Tensor")
_library.impl("packed_linear", _packed_product, "CompositeExplicitAutograd")


@torch.library.register_fake("imgtf::packed_linear", lib=_library)
def _packed_product_shape(x: Tensor, packed: Tensor, bias: Tensor | None, out: int) -> Tensor:
    return x.new_empty(*x.shape[:-1], out)
