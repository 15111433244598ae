"""The decoder: however it runs, it samples what the network predicts, and leaves the network unchanged."""

from __future__ import annotations

import shutil
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from imgtf.errors import ConfigError
from imgtf.prior.conditions.condition import Condition
from imgtf.prior.config import SamplingConfig
from imgtf.prior.decoding import cache, compiled
from imgtf.prior.decoding.decoder import Decoder
from imgtf.prior.decoding.quantized import cast
from imgtf.prior.decoding.sampler import image_uniforms, sample
from imgtf.prior.model import Prior

from ..test_model import LABELS, tiny
from ..test_objectives import FEATURES, KINDS, some_condition
from .test_sampler import uncached

needs_compiler = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler"
)
PREFIX_FEATURES = KINDS["prefix features"]


def labelled(n: int) -> Condition:
    return Condition(label=torch.arange(n) % 3)


def everything_of(network: nn.Module) -> list[tuple[str, dict[str, Any]]]:
    """The attributes of every module, without the mode."""
    return [
        (name, {k: v for k, v in vars(module).items() if k != "training"})
        for name, module in network.named_modules()
    ]


@pytest.mark.parametrize("objective", ["raster", "masked"])
def test_sampling_leaves_no_state_on_the_network(objective: str, tmp_path: Path) -> None:
    prior = tiny(objective=objective)
    before = everything_of(deepcopy(prior))
    decoder = Decoder(prior)
    sample(decoder, labelled(2), image_uniforms(0, 0, 2, 6), SamplingConfig(cfg_scale=2.0))
    for (name, own), (_, earlier) in zip(everything_of(prior), before, strict=True):
        assert own.keys() == earlier.keys(), name
    assert {type(m) for m in prior.modules()} == {type(m) for m in tiny(objective=objective).modules()}
    prior.save_pretrained(tmp_path)
    assert repr(Prior.from_pretrained(tmp_path)) == repr(prior)


@torch.no_grad()
def test_a_network_that_has_sampled_can_be_copied_and_trained() -> None:
    prior = tiny()
    sample(prior, Condition(), image_uniforms(0, 0, 2, 6), SamplingConfig())
    copy = deepcopy(prior)
    assert copy.state_dict().keys() == prior.state_dict().keys()
    with torch.enable_grad():
        copy(torch.zeros(1, 6, dtype=torch.long)).sum().backward()
    assert copy.blocks[0].attention.qkv.weight.grad is not None  # type: ignore[union-attr]


def codes_of(decoder: Decoder | Prior) -> Tensor:
    return sample(decoder, labelled(8), image_uniforms(0, 0, 8, 6), SamplingConfig())


@torch.no_grad()
def scale(prior: Prior) -> None:
    for parameter in prior.parameters():
        parameter.mul_(1.5)


def load_state(prior: Prior) -> None:
    prior.load_state_dict({name: 1.5 * t for name, t in prior.state_dict().items()})


def assign_state(prior: Prior) -> None:
    prior.load_state_dict({name: 1.5 * t for name, t in prior.state_dict().items()}, assign=True)


def replace_head(prior: Prior) -> None:
    prior.head = nn.Linear(32, 16, bias=False)


def cast_to_bf16(prior: Prior) -> None:
    cast(prior, torch.bfloat16)


def cast_to_int8(prior: Prior) -> None:
    cast(prior, torch.int8)


@pytest.mark.parametrize(
    "change", [scale, load_state, assign_state, replace_head, cast_to_bf16, cast_to_int8]
)
def test_a_decoder_follows_changes_of_the_network(change: Any) -> None:
    prior = tiny()
    decoder = Decoder(prior)
    before = codes_of(decoder)
    change(prior)
    after = codes_of(decoder)
    assert torch.equal(after, codes_of(Decoder(deepcopy(prior))))
    assert not torch.equal(after, before)


def test_a_decoder_can_be_copied() -> None:
    decoder = Decoder(tiny())
    expected = codes_of(decoder)
    copy = deepcopy(decoder)
    assert torch.equal(codes_of(copy), expected)
    scale(decoder.network)  # type: ignore[arg-type]
    assert torch.equal(codes_of(copy), expected)


@pytest.mark.parametrize("kv_heads", [None, 1])
@pytest.mark.parametrize("settings", [SamplingConfig(top_k=5), SamplingConfig(cfg_scale=2.0)])
@torch.no_grad()
def test_a_cache_that_grows_equals_no_cache(kv_heads: int | None, settings: SamplingConfig) -> None:
    prior = tiny(grid=(9, 8), kv_heads=kv_heads)  # more than twice as many positions as the cache starts with
    label, uniforms = torch.arange(3), image_uniforms(1, 0, 3, 72)
    assert torch.equal(
        sample(prior, Condition(label=label), uniforms, settings), uncached(prior, label, uniforms, settings)
    )


@pytest.mark.parametrize("objective", ["raster", "random"])
@pytest.mark.parametrize("kind", ["label", "all"])
def test_codes_do_not_depend_on_how_the_cache_grows(
    monkeypatch: pytest.MonkeyPatch, objective: str, kind: str
) -> None:
    """Guidance that starts after the first step and several codes per step: rows of different lengths, extra tokens."""
    prior = tiny(grid=(3, 4), objective=objective, **KINDS[kind])
    steps = None if objective == "raster" else 5
    settings = SamplingConfig(cfg_scale=3.0, cfg_schedule="linear", sampling_steps=steps)
    codes = []
    for stride in (1, 4, 32):
        monkeypatch.setattr(cache, "CPU_STRIDE", stride)
        codes.append(sample(prior, some_condition(prior, 5), image_uniforms(3, 0, 5, 12), settings))
    assert all(torch.equal(a, b) for a, b in pairwise(codes))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int8])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"objective": "random", "positions": "sinusoidal-2d", **KINDS["all"]},
        {"objective": "masked"},
        PREFIX_FEATURES,
    ],
)
def test_every_precision_samples_every_kind_of_prior(dtype: torch.dtype, changes: dict[str, object]) -> None:
    prior: Prior = cast(tiny(grid=(3, 4), **changes), dtype)
    steps = None if prior.config.objective == "raster" else 4
    settings = SamplingConfig(cfg_scale=2.0, sampling_steps=steps)
    codes = sample(prior, some_condition(prior, 3), image_uniforms(0, 0, 3, 12), settings)
    assert codes.shape == (3, 12)
    assert 0 <= int(codes.min()) <= int(codes.max()) < 16


@needs_compiler
@pytest.mark.parametrize(
    ("changes", "settings"),
    [
        ({}, SamplingConfig(top_k=5, temperature=2.0, final_temperature=0.5)),
        (
            {
                "objective": "random",
                "positions": "sinusoidal-2d",
                "kv_heads": 1,
                "qk_norm": True,
                **KINDS["all"],
            },
            SamplingConfig(cfg_scale=2.0),
        ),
        ({"norm": "layer", **PREFIX_FEATURES}, SamplingConfig(cfg_scale=2.0, top_p=0.9)),
    ],
)
def test_compiled_steps_give_the_same_codes_and_the_second_batch_compiles_nothing(
    changes: dict[str, object], settings: SamplingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32. The second batch has a larger grid, so larger capacities of the cache, and another decoder."""
    monkeypatch.setattr(cache, "CPU_STRIDE", 2)
    monkeypatch.setattr(compiled, "GROUP_SIZE", 1)
    for grid, stance in (((2, 3), "default"), ((3, 4), "fail_on_recompile")):
        prior = tiny(grid=grid, **changes)
        condition, uniforms = some_condition(prior, 2), image_uniforms(1, 0, 2, prior.config.tokens)
        expected = sample(prior, condition, uniforms, settings)
        decoder = Decoder(prior, compile=True)
        with torch.compiler.set_stance(stance):
            assert torch.equal(sample(decoder, condition, uniforms, settings), expected)


def test_without_a_compiler_the_decoder_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(ConfigError, match=r"no compiler.*--compile"):
        Decoder(tiny(), compile=True)


def test_conditions_of_the_network_are_those_of_the_decoder() -> None:
    prior = tiny(conditions=(LABELS, FEATURES))
    assert Decoder(prior).config is prior.config
    assert Decoder(prior).device == prior.device
