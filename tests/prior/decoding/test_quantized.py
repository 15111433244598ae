"""8-bit weights: what is rounded, that all ways of multiplying agree, and that the prior hardly notices."""

from __future__ import annotations

import shutil

import pytest
import torch
import torch.nn.functional as F
from torch._inductor.utils import run_and_get_code

from imgtf.prior.conditions.condition import Condition
from imgtf.prior.config import SamplingConfig
from imgtf.prior.decoding.packed import Linear, laid_out, row_sums
from imgtf.prior.decoding.quantized import KERNEL_ROWS, Int8Linear, cast
from imgtf.prior.decoding.sampler import image_uniforms, sample
from imgtf.runtime.compiler import check_compiler

from ..test_model import tiny
from ..test_objectives import some_codes

needs_compiler = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler"
)


def weights_of(layer: Int8Linear) -> torch.Tensor:
    return layer.weight.float() * layer.scale.float()[:, None]


def test_each_weight_is_rounded_to_the_nearest_step_of_its_row() -> None:
    layer = Linear(64, 48)
    with torch.no_grad():
        layer.weight[3] = 0
        layer.weight[4] *= 100
    rounded = Int8Linear(layer)
    error = (weights_of(rounded) - layer.weight).abs()
    step = layer.weight.abs().amax(1) / 127
    assert (error <= 0.51 * step[:, None] + 0.005 * layer.weight.abs()).all()  # the scale itself is rounded
    assert error.max() > 0
    assert not error[3].any()
    assert not list(rounded.parameters())


@pytest.mark.parametrize("bias", [False, True])
@torch.no_grad()
def test_few_rows_and_many_give_the_product_of_the_rounded_weights(bias: bool) -> None:
    layer = Linear(64, 48, bias=bias)
    rounded = Int8Linear(layer)
    for shape in [(1, 1, 64), (KERNEL_ROWS, 64), (KERNEL_ROWS + 1, 1, 64), (3, 20, 64)]:
        x = torch.randn(shape).bfloat16()
        expected = F.linear(x.float(), weights_of(rounded), layer.bias)
        y = rounded(x)
        assert y.dtype == torch.bfloat16
        torch.testing.assert_close(y.float(), expected, atol=0.02, rtol=0.02)


@needs_compiler
@pytest.mark.parametrize("rows", [1, 2])
@torch.no_grad()
def test_compiled_sums_of_a_few_rows_give_the_same_product(rows: int) -> None:
    check_compiler(torch.device("cpu"))  # takes the warnings of inductor's first import
    layer = Linear(64, 48, bias=True).bfloat16()
    x = torch.randn(rows, 2, 64).bfloat16()[:, 1:]  # not one after the other
    for module in (layer, Int8Linear(layer)):
        with laid_out(module):
            y = torch.compile(module)(x)
            torch.testing.assert_close(y, module(x), atol=0.02, rtol=0.02)


@needs_compiler
@pytest.mark.parametrize("rows", [1, 2])
@torch.no_grad()
def test_compiled_sums_read_weights_once_and_rows_that_are_written_down(rows: int) -> None:
    """A norm in front of the product must not be computed again for each of its rows of weights."""
    check_compiler(torch.device("cpu"))
    norm, weight = torch.nn.RMSNorm(96), torch.randn(48, 96)
    product = torch.compile(lambda x: row_sums(norm(x), weight))
    _, (code,) = run_and_get_code(product, torch.randn(rows, 1, 96))
    loops = code.split("async_compile.wait")[0].split("for(int64_t")
    reading = [loop for loop in loops if "96L*x0" in loop and f"tmp_acc{rows - 1}_vec" in loop]
    assert len(reading) == 1
    assert any("sqrt" in loop for loop in loops)
    assert "sqrt" not in reading[0]


@pytest.mark.parametrize("objective", ["raster", "random", "masked"])
@torch.no_grad()
def test_an_int8_prior_is_a_fourth_as_large_and_almost_as_sure(objective: str) -> None:
    whole, rounded = (tiny(objective=objective, width=64) for _ in range(2))
    rounded.load_state_dict(whole.state_dict())
    cast(rounded, torch.int8)
    blocks = [sum(t.nbytes for t in prior.blocks.state_dict().values()) for prior in (whole, rounded)]
    assert 3.5 < blocks[0] / blocks[1] < 4
    label = torch.tensor([0, 1, 2, 1])
    codes = some_codes(whole)
    bits = [prior.log_prob(codes, label).mean() for prior in (whole, rounded)]
    assert bits[0] != bits[1]
    torch.testing.assert_close(bits[1], bits[0], atol=0.03, rtol=0)


@needs_compiler
def test_compiled_int8_steps_sample() -> None:
    prior, uniforms = cast(tiny(grid=(3, 4)), torch.int8), image_uniforms(0, 0, 1, 12)
    codes = sample(prior, Condition(), uniforms, SamplingConfig(top_k=5), compile=True)
    assert codes.shape == (1, 12)
    assert 0 <= int(codes.min()) <= int(codes.max()) < 16
