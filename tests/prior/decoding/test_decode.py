"""What makes decoding fast changes nothing: laid-out weights, a cache that grows, sums by blocks."""

from __future__ import annotations

import shutil
from copy import deepcopy
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from imgtf.errors import ConfigError
from imgtf.prior import cache, fused
from imgtf.prior.conditions.condition import Condition
from imgtf.prior.config import SamplingConfig
from imgtf.prior.decoding.filters import BLOCK, SPLIT, choose, kth_largest, probabilities
from imgtf.prior.decoding.packed import Linear, laid_out, packable
from imgtf.prior.decoding.quantized import cast
from imgtf.prior.decoding.sampler import image_uniforms, sample
from imgtf.prior.layers import attend, attend_one
from imgtf.prior.model import Prior

from ..test_model import tiny
from ..test_objectives import KINDS, some_condition
from .test_sampler import uncached

V = 64 * BLOCK


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_laid_out_weights_give_the_same_products(dtype: torch.dtype) -> None:
    layer = Linear(48, 80, bias=True).to(dtype)
    for shape in [(1, 1, 48), (7, 48), (3, 5, 48)]:
        x = torch.randn(shape, dtype=dtype)
        with laid_out(layer):
            assert (layer.packed is not None) == packable(layer.weight)
            tolerance = 1e-5 if dtype == torch.float32 else 0.02
            torch.testing.assert_close(
                layer(x), F.linear(x, layer.weight, layer.bias), atol=tolerance, rtol=tolerance
            )
        assert layer.packed is None


@torch.no_grad()
def test_weights_that_changed_are_laid_out_anew() -> None:
    layer, x = Linear(16, 8, bias=False), torch.randn(2, 16)
    for _ in range(2):
        with laid_out(layer):
            torch.testing.assert_close(layer(x), F.linear(x, layer.weight))
        layer.weight.mul_(3)


@torch.no_grad()
def test_a_model_that_has_sampled_can_be_copied_and_trained() -> None:
    prior = tiny()
    sample(prior, Condition(), image_uniforms(0, 0, 2, 6), SamplingConfig())
    copy = deepcopy(prior)
    assert copy.state_dict().keys() == prior.state_dict().keys()
    with torch.enable_grad():
        copy(torch.zeros(1, 6, dtype=torch.long)).sum().backward()
    assert copy.blocks[0].attention.qkv.weight.grad is not None  # type: ignore[union-attr]


@pytest.mark.parametrize("kv_heads", [None, 1])
@pytest.mark.parametrize("settings", [SamplingConfig(top_k=5), SamplingConfig(cfg_scale=2.0)])
@torch.no_grad()
def test_a_cache_that_grows_equals_none(kv_heads: int | None, settings: SamplingConfig) -> None:
    prior = tiny(grid=(9, 8), kv_heads=kv_heads)  # more than twice as many slots as the cache starts with
    label, uniforms = torch.arange(3), image_uniforms(1, 0, 3, 72)
    assert torch.equal(
        sample(prior, Condition(label=label), uniforms, settings), uncached(prior, label, uniforms, settings)
    )


@pytest.mark.parametrize("objective", ["raster", "random"])
@pytest.mark.parametrize("kind", ["class", "all"])
def test_how_the_cache_grows_makes_no_difference(
    monkeypatch: pytest.MonkeyPatch, objective: str, kind: str
) -> None:
    """Guidance that sets in after the first step, several codes a step: rows that lag, slots that are forgotten."""
    prior = tiny(grid=(3, 4), objective=objective, **KINDS[kind])
    steps = None if objective == "raster" else 5
    settings = SamplingConfig(cfg_scale=3.0, cfg_schedule="linear", sampling_steps=steps)
    drawn = []
    for stride in (1, 4, 32):
        monkeypatch.setattr(cache, "STRIDE", stride)
        drawn.append(sample(prior, some_condition(prior, 5), image_uniforms(3, 0, 5, 12), settings))
    assert all(torch.equal(a, b) for a, b in pairwise(drawn))


@pytest.mark.parametrize("key_heads", [6, 2])
def test_one_query_over_a_cache_with_room_equals_attention_over_what_is_filled(key_heads: int) -> None:
    q = torch.randn(3, 6, 1, 8)
    k, v = torch.randn(3, key_heads, 20, 8), torch.randn(3, key_heads, 20, 8)
    bias = torch.zeros(20)
    bias[13:] = -torch.inf
    expected = attend(q, k[:, :, :13], v[:, :, :13], None, False, 0.0)
    torch.testing.assert_close(attend_one(q, k, v, bias), expected)


@pytest.mark.parametrize("k", [1, 7, 100])
def test_the_kth_largest_is_found_among_few(k: int) -> None:
    assert 4 * k * SPLIT <= V
    for x in (torch.randn(5, V), torch.randint(50, (5, V)).float(), torch.randn(5, V).bfloat16()):
        assert torch.equal(kth_largest(x, k), x.topk(k).values[:, -1:])


def test_sums_by_blocks_choose_the_same_codes() -> None:
    p = (3 * torch.randn(400, V)).softmax(-1)
    uniforms = torch.rand(400, dtype=torch.float64)
    cumulative = p.double().cumsum(-1)
    expected = torch.searchsorted(cumulative, uniforms[:, None] * cumulative[:, -1:], right=True)[:, 0]
    assert torch.equal(choose(p, uniforms), expected)


def test_impossible_codes_are_never_chosen() -> None:
    p = torch.zeros(3, V)
    p[:, [5, 700, 701, V - 9]] = torch.tensor([0.3, 0.1, 0.2, 0.4])
    edges = torch.tensor([0.0, 0.3, 0.4, 0.6, 1 - 2**-53], dtype=torch.float64)
    for uniform in torch.cat([edges, torch.rand(200, dtype=torch.float64)]):
        assert set(choose(p, uniform.expand(3)).tolist()) <= {5, 700, 701, V - 9}
    assert choose(p, edges[[0, 4, 4]]).tolist() == [5, V - 9, V - 9]


def test_top_k_keeps_as_many_as_asked_for() -> None:
    p = probabilities(torch.randn(4, V), SamplingConfig(top_k=20), 0.8)
    assert (p > 0).sum(-1).tolist() == [20] * 4
    torch.testing.assert_close(p.sum(-1), torch.ones(4))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int8])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"objective": "random", "positions": "sinusoidal-2d", **KINDS["all"]},
        {"objective": "masked"},
        {"feature_width": 5, "feature_length": 4, "feature_prefix": True, "class_names": ()},
    ],
)
def test_halves_sample_every_kind_of_prior(dtype: torch.dtype, changes: dict[str, object]) -> None:
    prior: Prior = cast(tiny(grid=(3, 4), **changes), dtype)
    steps = None if prior.config.objective == "raster" else 4
    settings = SamplingConfig(cfg_scale=2.0, sampling_steps=steps)
    codes = sample(prior, some_condition(prior, 3), image_uniforms(0, 0, 3, 12), settings)
    assert codes.shape == (3, 12)
    assert 0 <= int(codes.min()) <= int(codes.max()) < 16


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler")
def test_compiled_steps_draw_the_same_codes_without_compiling_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "STRIDE", 2)  # the room grows many times
    monkeypatch.setattr(fused, "GROUP", 3)
    torch._dynamo.reset()
    prior = tiny(class_names=("a", "b"), depth=4)  # two groups of two blocks
    label = Condition(label=torch.tensor([1]))
    for scale in (1.0, 3.0):  # one row, and two
        settings = SamplingConfig(cfg_scale=scale, cfg_schedule="constant")
        graphs = []
        for seed in range(3):
            uniforms = image_uniforms(seed, 0, 1, 6)
            expected = sample(prior, label, uniforms, settings)
            assert torch.equal(sample(prior, label, uniforms, settings, compile=True), expected)
            graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
        assert graphs[0] == graphs[2] > 0
    assert not prior.fused
    # A temperature that changes from step to step is a tensor: one graph more for all of them.
    settings = SamplingConfig(cfg_scale=1.0, temperature=2.0, final_temperature=0.5)
    uniforms = image_uniforms(0, 0, 1, 6)
    expected = sample(prior, label, uniforms, settings)
    assert torch.equal(sample(prior, label, uniforms, settings, compile=True), expected)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs[2] + 1


def test_where_nothing_compiles_sampling_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_, **__):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(ConfigError, match=r"no compiler.*--compile"):
        sample(tiny(), Condition(), image_uniforms(0, 0, 1, 6), SamplingConfig(), compile=True)
