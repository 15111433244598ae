"""8-bit weights: their rounding error, equal products on all code paths, and their effect on the likelihood."""

from __future__ import annotations

import shutil

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from imgtf.prior.conditions.condition import Condition
from imgtf.prior.config import SamplingConfig
from imgtf.prior.decoding.decoder import Decoder
from imgtf.prior.decoding.quantized import KERNEL_ROWS, Int8Linear, cast
from imgtf.prior.decoding.sampler import image_uniforms, sample
from imgtf.runtime.compiler import check_compiler

from ..test_model import some_codes, tiny

needs_compiler = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler"
)


def weights_of(layer: Int8Linear) -> torch.Tensor:
    return layer.weight.float() * layer.scale.float()[:, None]


def test_each_weight_is_rounded_to_the_nearest_multiple_of_its_rows_scale() -> None:
    layer = nn.Linear(64, 48)
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


@pytest.mark.parametrize("width", [5, 64, 100])
@pytest.mark.parametrize("bias", [False, True])
@torch.no_grad()
def test_few_rows_and_many_give_the_product_of_the_rounded_weights(bias: bool, width: int) -> None:
    layer = nn.Linear(width, 48, bias=bias)
    rounded = Int8Linear(layer)
    for shape in [(1, 1, width), (KERNEL_ROWS, width), (KERNEL_ROWS + 1, 1, width), (3, 20, width)]:
        x = torch.randn(shape).bfloat16()
        expected = F.linear(x.float(), weights_of(rounded), layer.bias)
        y = rounded(x)
        assert y.dtype == torch.bfloat16
        torch.testing.assert_close(y.float(), expected, atol=0.02, rtol=0.02)


@needs_compiler
@pytest.mark.parametrize("rows", [1, 2, 3])
@torch.no_grad()
def test_compiled_products_equal_eager_ones(rows: int) -> None:
    check_compiler(torch.device("cpu"))  # catches the warnings of inductor's first import
    rounded = Int8Linear(nn.Linear(64, 48, bias=True))
    x = torch.randn(rows, 2, 64).bfloat16()[:, 1:]  # not contiguous
    torch.testing.assert_close(torch.compile(rounded)(x), rounded(x), atol=0.02, rtol=0.02)


@pytest.mark.parametrize("objective", ["raster", "random", "masked"])
@torch.no_grad()
def test_an_int8_prior_is_a_quarter_as_large_with_almost_the_same_likelihood(objective: str) -> None:
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
    decoder = Decoder(cast(tiny(grid=(3, 4)), torch.int8), compile=True)
    uniforms = image_uniforms(0, 0, 1, 12)
    codes = sample(decoder, Condition(), uniforms, SamplingConfig(top_k=5))
    assert codes.shape == (1, 12)
    assert 0 <= int(codes.min()) <= int(codes.max()) < 16
