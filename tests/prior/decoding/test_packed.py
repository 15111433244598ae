"""Packed weights: the same products, always of the current weights."""

from __future__ import annotations

import shutil

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgtf.prior.decoding.packed import PackedLinear, decoding_layers, decoding_view, packable, row_sums
from imgtf.runtime.compiler import check_compiler

from ..test_model import some_codes, tiny
from ..test_objectives import KINDS, some_condition

needs_compiler = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler"
)
SHAPES = [(1, 1, 48), (7, 48), (3, 5, 48)]


def tolerance(dtype: torch.dtype) -> dict[str, float]:
    return dict.fromkeys(("atol", "rtol"), 1e-5 if dtype == torch.float32 else 0.02)


def packed_of(layer: nn.Linear) -> PackedLinear:
    packed = PackedLinear.of(layer)
    packed.refresh()
    return packed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bias", [False, True])
@torch.no_grad()
def test_packed_weights_give_the_same_products(dtype: torch.dtype, bias: bool) -> None:
    layer = nn.Linear(48, 80, bias=bias).to(dtype)
    packed = packed_of(layer)
    assert (packed.packed is not None) == packable(layer.weight)
    for shape in SHAPES:
        x = torch.randn(shape, dtype=dtype)
        expected = F.linear(x, layer.weight, layer.bias)
        torch.testing.assert_close(packed(x), expected, **tolerance(dtype))


@torch.no_grad()
def test_inputs_of_another_type_use_the_plain_weights() -> None:
    packed = packed_of(nn.Linear(16, 8))
    with torch.autocast("cpu", torch.bfloat16):
        assert packed(torch.randn(2, 16).bfloat16()).dtype == torch.bfloat16


def test_with_gradients_or_autocast_nothing_is_packed() -> None:
    layer = nn.Linear(16, 8)
    assert packed_of(layer).packed is None
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert packed_of(layer).packed is None


@torch.no_grad()
def test_weights_that_changed_in_place_are_packed_again() -> None:
    layer, x = nn.Linear(16, 8, bias=False), torch.randn(2, 16)
    packed = packed_of(layer)
    first = packed.packed
    packed.refresh()
    assert packed.packed is first
    layer.weight.mul_(3)
    packed.refresh()
    torch.testing.assert_close(packed(x), F.linear(x, layer.weight))
    layer.weight = nn.Parameter(torch.randn(8, 16))
    packed.refresh()
    torch.testing.assert_close(packed(x), F.linear(x, layer.weight))
    layer.to(torch.float16)
    packed.refresh()
    assert packed.packed is None


@pytest.mark.parametrize("objective", ["raster", "random", "masked"])
@pytest.mark.parametrize("kind", ["label", "all"])
@torch.no_grad()
def test_a_packed_network_gives_the_same_logits(objective: str, kind: str) -> None:
    prior = tiny(objective=objective, bias=True, **KINDS[kind])
    codes, condition = some_codes(prior), some_condition(prior, 4)
    view = decoding_view(prior)
    layers = decoding_layers(view)
    for layer in layers:
        assert isinstance(layer, PackedLinear)
        layer.refresh()
    assert len(layers) == len(decoding_layers(prior)) > 0
    torch.testing.assert_close(view(codes, **condition), prior(codes, **condition))


@torch.no_grad()
def test_a_view_shares_all_tensors_and_no_mode() -> None:
    prior = tiny(dropout=0.5)
    view = decoding_view(prior)
    own = dict(prior.named_parameters())
    assert all(parameter is own[name] for name, parameter in view.named_parameters())
    prior.train()
    assert not any(module.training for module in view.modules())
    prior.head.weight = nn.Parameter(torch.zeros(16, 32))
    assert not view(some_codes(prior)).any()


@torch.no_grad()
def test_a_view_runs_its_own_modules_after_compiled_training() -> None:
    prior = tiny(condition_dropout=1.0)
    label, codes = torch.tensor([0, 1, 2, 0]), some_codes(prior)
    expected = prior(codes, label)
    for module in (prior.positions, prior.conditions):  # as `runtime.compiler.compiled` does
        module.forward = torch.compiler.disable(module.forward)  # type: ignore[method-assign]
    prior.train()
    torch.testing.assert_close(decoding_view(prior)(codes, label), expected)


@needs_compiler
@pytest.mark.parametrize("rows", [1, 2, 3])
@torch.no_grad()
def test_compiled_products_equal_eager_ones(rows: int) -> None:
    check_compiler(torch.device("cpu"))  # catches the warnings of inductor's first import
    packed = packed_of(nn.Linear(64, 48, bias=True).bfloat16())
    x = torch.randn(rows, 2, 64).bfloat16()[:, 1:]  # not contiguous
    torch.testing.assert_close(torch.compile(packed)(x), packed(x), **tolerance(torch.bfloat16))


@needs_compiler
@pytest.mark.parametrize("rows", [1, 2])
@torch.no_grad()
def test_compiled_row_sums_behind_a_norm_equal_the_product(rows: int) -> None:
    check_compiler(torch.device("cpu"))
    norm, weight = nn.RMSNorm(96), torch.randn(48, 96)

    def product(x: Tensor) -> Tensor:
        return row_sums(norm(x), weight)

    x = torch.randn(rows, 1, 96)
    expected = F.linear(norm(x), weight).flatten(0, 1)
    torch.testing.assert_close(torch.compile(product)(x), expected)
