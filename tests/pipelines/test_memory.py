"""Stated memory of sampling against the tensors that are really held."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from imgtf import Prior, Tokenizer
from imgtf.errors import ConfigError
from imgtf.pipelines import memory
from imgtf.pipelines.memory import auto_batch, check_batch, decoded_at_once, free_memory, sampling_memory
from imgtf.pipelines.tensor_bytes import LiveBytes, cache_bytes, decoder_bytes, packed_bytes, weight_bytes
from imgtf.prior.conditions.condition import Condition
from imgtf.prior.conditions.label import LabelConfig
from imgtf.prior.conditions.text import TextConfig
from imgtf.prior.config import PriorConfig, SamplingConfig
from imgtf.prior.decoding.decoder import Decoder
from imgtf.prior.decoding.packed import PackedLinear
from imgtf.prior.decoding.quantized import cast
from imgtf.prior.decoding.sampler import image_uniforms, sample
from imgtf.tokenizer.config import TokenizerConfig

from .conftest import run

TOKENIZER = TokenizerConfig(
    image_size=32, width=16, multipliers=(1, 2, 4), norm_groups=8, latent_width=64, attention_levels=(2,)
)
VIT = TokenizerConfig(image_size=32, network="vit", width=32, depth=2, patch=4, registers=2)
LABELS = LabelConfig(class_names=("a", "b"))
PRIOR = PriorConfig(grid=(8, 8), codebook_size=256, conditions=(LABELS,), width=32, depth=2, heads=2)


def test_weights_are_those_of_the_networks() -> None:
    assert weight_bytes(PRIOR) == sum(t.nbytes for t in Prior(PRIOR).state_dict().values())
    assert weight_bytes(TOKENIZER) == sum(t.nbytes for t in Tokenizer(TOKENIZER).state_dict().values())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"kv_heads": 1},
        {"conditions": (LABELS, TextConfig(max_bytes=8))},
        {"objective": "random", "rotary": None},
    ],
)
def test_the_cache_is_that_of_the_decoder(changes: dict[str, Any]) -> None:
    config = replace(PRIOR, **changes)
    decoder = Decoder(Prior(config).eval())
    extra = 3 if config.objective == "random" else 0
    cache = decoder.new_cache(decoder.encode(Condition(), 6, config.grid), config.sequence_length + extra)
    held = [cache.keys, cache.values, *(t for pair in cache.cross for t in pair)]
    assert cache_bytes(config, 6, extra_tokens=extra) == sum(t.nbytes for t in held)


def test_packed_weights_are_those_of_the_decoder() -> None:
    decoder = Decoder(Prior(PRIOR).eval())
    with torch.no_grad():
        decoder.refresh()
        layers = [m for m in decoder._view.modules() if isinstance(m, PackedLinear)]
        packed = [layer for layer in layers if layer.packed is not None]
    assert len(packed) in (0, len(layers))  # this CPU can pack or not
    assert packed_bytes(PRIOR) == sum(layer.weight.nbytes for layer in packed)


@pytest.mark.parametrize(("objective", "steps"), [("raster", None), ("random", 8), ("masked", 4)])
@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_stated_memory_is_what_sampling_holds(
    objective: str, steps: int | None, guided: bool, top_p: float
) -> None:
    own = SamplingConfig(cfg_scale=1.0 + guided, sampling_steps=steps, top_p=top_p)
    config = replace(PRIOR, objective=objective, rotary=None, codebook_size=4096, sampling=own)
    prior = Prior(config).eval()
    condition = Condition(label=torch.zeros(8, dtype=torch.long))
    with LiveBytes([*prior.parameters(), *prior.buffers()]) as live:
        sample(prior, condition, image_uniforms(0, 0, 8, config.tokens), own)
    stated = sampling_memory(config, TOKENIZER, 8)
    assert 0.9 < (stated.cache + stated.workspace) / live.peak < 1.2
    assert (stated.cache == 0) == (objective == "masked")


@pytest.mark.parametrize(("objective", "steps"), [("raster", None), ("random", 8), ("masked", 4)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int8])
def test_stated_memory_is_what_sampling_holds_in_other_precisions(
    objective: str, steps: int | None, dtype: torch.dtype
) -> None:
    own = SamplingConfig(cfg_scale=2.0, sampling_steps=steps)
    config = replace(PRIOR, objective=objective, rotary=None, width=64, codebook_size=1024, sampling=own)
    prior = cast(Prior(config), dtype).eval()
    with LiveBytes([*prior.parameters(), *prior.buffers()]) as live:
        sample(prior, Condition(label=torch.zeros(8, dtype=torch.long)), image_uniforms(0, 0, 8, 64), own)
    stated = sampling_memory(config, TOKENIZER, 8, dtype=dtype)
    assert 0.9 < (stated.cache + stated.workspace) / live.peak < 1.2


def test_half_precision_applies_to_the_prior_after_loading() -> None:
    full = sampling_memory(PRIOR, TOKENIZER, 64)
    for dtype in (torch.bfloat16, torch.float16):
        half = sampling_memory(PRIOR, TOKENIZER, 64, dtype=dtype)
        assert half.cache * 2 == full.cache
        prior = Prior(PRIOR).to(dtype).state_dict().values()
        weights = weight_bytes(TOKENIZER) + sum(t.nbytes for t in prior)
        assert half.weights == weights + packed_bytes(PRIOR, dtype)
        assert (half.loading, half.decoder) == (full.loading, full.decoder)
    assert packed_bytes(PRIOR, torch.float16) == packed_bytes(PRIOR, torch.int8) == 0


def test_int8_weights_are_those_of_the_cast_network() -> None:
    config = replace(PRIOR, width=64, codebook_size=1024)
    tensors = cast(Prior(config), torch.int8).state_dict().values()
    assert weight_bytes(config, torch.int8) == sum(t.nbytes for t in tensors)
    assert weight_bytes(config, torch.int8) < 0.7 * weight_bytes(config, torch.bfloat16)


def test_cuda_graphs_keep_their_memory_while_images_are_decoded() -> None:
    on_gpu = sampling_memory(PRIOR, TOKENIZER, 8, device="cuda")
    assert on_gpu.batch == on_gpu.cache + on_gpu.workspace + on_gpu.decoder
    masked = sampling_memory(replace(PRIOR, objective="masked"), TOKENIZER, 8, device="cuda")
    assert masked.batch == max(masked.workspace, masked.decoder)


@pytest.mark.parametrize("config", [TOKENIZER, VIT])
def test_decoder_activations_are_those_of_a_real_pass(config: TokenizerConfig) -> None:
    model = Tokenizer(config).eval()
    latents = torch.randn(3, config.codebook_dim, 8, 8)
    with torch.no_grad(), LiveBytes([*model.parameters(), *model.buffers()]) as live:
        model.decode_vectors(latents).clamp(-1, 1)
    # On the meta device attention is several operations, on the CPU one.
    assert live.peak <= decoder_bytes(config, 3) <= (1.0 if config is TOKENIZER else 1.5) * live.peak
    assert decoder_bytes(config, 6) == pytest.approx(2 * decoder_bytes(config, 3), rel=0.02)
    del latents
    assert live.now <= 3 * 3 * 32 * 32 * 4


def test_live_bytes_follow_tensors_and_views() -> None:
    excluded = torch.zeros(1000)
    with LiveBytes([excluded]) as live:
        a = excluded + 1  # 4,000 bytes
        assert live.now == 4000
        b = a.view(10, 100).t()
        assert live.now == 4000
        c = torch.cat([a, a])
        assert live.now == 12000
        del a, b, c
        assert live.now == 0
    assert live.peak == 12000


def test_guidance_doubles_the_cache_and_the_peak_covers_every_phase() -> None:
    plain = sampling_memory(PRIOR, TOKENIZER, 64, settings=SamplingConfig())
    guided = sampling_memory(PRIOR, TOKENIZER, 64, settings=SamplingConfig(cfg_scale=2.0))
    assert guided.cache == 2 * plain.cache
    assert guided.workspace >= plain.workspace
    assert guided.peak >= guided.weights + guided.cache + guided.workspace
    assert guided.peak >= guided.weights + guided.decoder
    on_gpu = sampling_memory(PRIOR, TOKENIZER, 64, device="cuda")
    assert on_gpu.loading == on_gpu.weights
    assert plain.weights == on_gpu.weights + packed_bytes(PRIOR)


def test_the_automatic_batch_size_follows_free_memory_and_the_number_of_images() -> None:
    plenty = 2**40
    assert auto_batch(PRIOR, TOKENIZER, 1000, plenty) == 63  # 16 batches of almost the same size
    assert auto_batch(PRIOR, TOKENIZER, 65, plenty) == 33
    assert auto_batch(PRIOR, TOKENIZER, 7, plenty) == 7
    assert auto_batch(PRIOR, TOKENIZER, 64, plenty, processes=4) == 16
    assert auto_batch(PRIOR, TOKENIZER, 10**6, plenty, device="cuda") == 256
    assert auto_batch(PRIOR, TOKENIZER, 1000, 0) == 1
    little = 2 * sampling_memory(PRIOR, TOKENIZER, 16).batch
    assert auto_batch(PRIOR, TOKENIZER, 16, little) == 16
    assert auto_batch(PRIOR, TOKENIZER, 16, little - 2) == 8


def test_free_memory_is_divided_by_processes_and_limited_by_a_container(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cpu = torch.device("cpu")
    assert 2**20 < free_memory(cpu) < 2**50
    monkeypatch.setattr(memory, "_container_limits", lambda: [3 * 2**20])
    assert free_memory(cpu, processes=3) == 2**20


def test_fewer_large_images_are_decoded_at_once() -> None:
    large = TokenizerConfig(image_size=1024, multipliers=(1, 2, 4))
    assert [decoded_at_once(c) for c in (TOKENIZER, large)] == [256, 1]


def test_dry_run_states_memory_without_weights_and_writes_nothing(
    model: Path, tmp_path: Path, capsys: Any
) -> None:
    for stage in ("tokenizer", "prior"):
        (tmp_path / stage).mkdir()
        (tmp_path / stage / "config.json").write_text((model / stage / "config.json").read_text())
    before = sorted(tmp_path.rglob("*"))
    command = [
        "sample", "--model", tmp_path, "--dry-run", "--json", "--n", "40", "--cfg-scale", "2", "--precision", "fp32",
    ]  # fmt: skip
    assert run(*command, "--batch-size", "8") == 0
    stated = json.loads(capsys.readouterr().out)
    assert (stated["batch_size"], stated["rows_per_batch"], stated["steps"]) == (8, 16, 5 * 64)
    prior = Prior.from_pretrained(model / "prior")
    assert stated["parameters"]["prior"] == prior.parameter_count()
    assert stated["memory_mib"]["cache"] == round(cache_bytes(prior.config, 16) / 2**20, 3)
    assert stated["memory_mib"]["peak"] > stated["memory_mib"]["weights"]
    assert run(*command, "--batch-size", "8", "--precision", "bf16") == 0
    half = json.loads(capsys.readouterr().out)["memory_mib"]
    assert half["cache"] * 2 == pytest.approx(stated["memory_mib"]["cache"], abs=2e-3)
    assert half["weights"] < stated["memory_mib"]["weights"]
    assert half["loading"] == stated["memory_mib"]["loading"]
    assert run(*command, "--batch-size", "auto") == 0
    assert json.loads(capsys.readouterr().out)["batch_size"] == 40
    assert run(*command, "--temperature", "1e-9") == 2
    assert run(*command, "--batch-size", "0") == 2
    assert sorted(tmp_path.rglob("*")) == before


def test_info_states_the_memory(model: Path, capsys: Any) -> None:
    assert run("info", model, "--json") == 0
    stated = json.loads(capsys.readouterr().out)["sampling_memory_mib"]
    assert 0 < stated["cache_per_image"] < stated["batch_1"] <= stated["batch_16"] <= stated["batch_64"]


def test_a_batch_that_does_not_fit_is_refused_and_small_ones_are_not_checked() -> None:
    prior, tokenizer = PriorConfig(grid=(8, 8), codebook_size=256), TokenizerConfig()
    given: dict[str, Any] = {"settings": prior.sampling, "device": "cpu", "dtype": torch.float32}
    check_batch(prior, tokenizer, 64, 0, **given)
    check_batch(prior, tokenizer, 1024, 2**40, **given)
    with pytest.raises(
        ConfigError, match=r"a batch of 65536 images takes about .* GiB, 1\.0 GiB of memory are free"
    ):
        check_batch(prior, tokenizer, 2**16, 2**30, **given)
