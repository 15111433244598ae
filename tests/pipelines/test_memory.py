"""What sampling is said to take, against tensors that are really there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from imgtf import Prior, Tokenizer
from imgtf.pipelines import memory
from imgtf.pipelines.memory import (
    LiveBytes,
    auto_batch,
    cache_bytes,
    decoded_at_once,
    decoder_bytes,
    free_memory,
    laid_out_bytes,
    sampling_memory,
    weight_bytes,
)
from imgtf.prior.conditions.encoder import Condition
from imgtf.prior.config import PriorConfig, SamplingConfig
from imgtf.prior.decoding.quantized import cast
from imgtf.prior.decoding.sampler import image_uniforms, sample
from imgtf.tokenizer.config import TokenizerConfig

from .conftest import run

TOKENIZER = TokenizerConfig(
    image_size=32, width=16, multipliers=(1, 2, 4), norm_groups=8, latent_width=64, attention_levels=(2,)
)
VIT = TokenizerConfig(image_size=32, network="vit", width=32, depth=2, patch=4, registers=2)
PRIOR = PriorConfig(grid=(8, 8), codebook_size=256, class_names=("a", "b"), width=32, depth=2, heads=2)


def test_weights_and_cache_are_those_of_the_networks() -> None:
    prior = Prior(PRIOR)
    assert weight_bytes(PRIOR) == sum(t.nbytes for t in prior.state_dict().values())
    assert weight_bytes(TOKENIZER) == sum(t.nbytes for t in Tokenizer(TOKENIZER).state_dict().values())


@pytest.mark.parametrize(
    "told", [{}, {"kv_heads": 1}, {"text_length": 8}, {"objective": "random", "rotary": None}]
)
def test_the_cache_is_the_one_that_is_made(told: dict[str, Any]) -> None:
    config = replace(PRIOR, **told)
    prior = Prior(config)
    beside = 3 if config.objective == "random" else 0
    cache = prior.new_cache(prior.encode(Condition(), 6), config.sequence_length + beside)
    held = [cache.keys, cache.values, *(t for pair in cache.memory for t in pair)]
    assert cache_bytes(config, 6, beside=beside) == sum(t.nbytes for t in held)


@pytest.mark.parametrize(("objective", "steps"), [("raster", None), ("random", 8), ("masked", 4)])
@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_what_sampling_holds_is_what_is_stated(
    objective: str, steps: int | None, guided: bool, top_p: float
) -> None:
    own = SamplingConfig(cfg_scale=1.0 + guided, sampling_steps=steps, top_p=top_p)
    config = replace(PRIOR, objective=objective, rotary=None, codebook_size=4096, sampling=own)
    prior = Prior(config).eval()
    condition = Condition(torch.zeros(8, dtype=torch.long))
    with LiveBytes([*prior.parameters(), *prior.buffers()]) as live:
        sample(prior, condition, image_uniforms(0, 0, 8, config.tokens), own)
    stated = sampling_memory(config, TOKENIZER, 8)
    assert 0.9 < (stated.cache + stated.choice) / live.peak < 1.2
    assert (stated.cache == 0) == (objective == "masked")


@pytest.mark.parametrize(("objective", "steps"), [("raster", None), ("random", 8), ("masked", 4)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int8])
def test_what_halves_hold_is_what_is_stated(objective: str, steps: int | None, dtype: torch.dtype) -> None:
    own = SamplingConfig(cfg_scale=2.0, sampling_steps=steps)
    config = replace(PRIOR, objective=objective, rotary=None, width=64, codebook_size=1024, sampling=own)
    prior = cast(Prior(config), dtype).eval()
    with LiveBytes([*prior.parameters(), *prior.buffers()]) as live:
        sample(prior, Condition(torch.zeros(8, dtype=torch.long)), image_uniforms(0, 0, 8, 64), own)
    stated = sampling_memory(config, TOKENIZER, 8, dtype=dtype)
    assert 0.9 < (stated.cache + stated.choice) / live.peak < 1.2


def test_halves_are_read_whole_and_the_tokenizer_stays_so() -> None:
    whole = sampling_memory(PRIOR, TOKENIZER, 64)
    for dtype in (torch.bfloat16, torch.float16):
        half = sampling_memory(PRIOR, TOKENIZER, 64, dtype=dtype)
        assert half.cache * 2 == whole.cache
        prior = Prior(PRIOR).to(dtype).state_dict().values()
        weights = weight_bytes(TOKENIZER) + sum(t.nbytes for t in prior)
        assert half.weights == weights + laid_out_bytes(PRIOR, dtype)
        assert (half.loading, half.decoder) == (whole.loading, whole.decoder)
    assert laid_out_bytes(PRIOR, torch.float16) == laid_out_bytes(PRIOR, torch.int8) == 0


def test_int8_weights_are_counted_as_they_are_kept() -> None:
    config = replace(PRIOR, width=64, codebook_size=1024)
    tensors = cast(Prior(config), torch.int8).state_dict().values()
    assert weight_bytes(config, torch.int8) == sum(t.nbytes for t in tensors)
    assert weight_bytes(config, torch.int8) < 0.7 * weight_bytes(config, torch.bfloat16)


def test_captured_steps_keep_their_memory_while_images_are_decoded() -> None:
    on_gpu = sampling_memory(PRIOR, TOKENIZER, 8, device="cuda")
    assert on_gpu.beyond_weights == on_gpu.cache + on_gpu.choice + on_gpu.decoder
    masked = sampling_memory(replace(PRIOR, objective="masked"), TOKENIZER, 8, device="cuda")
    assert masked.beyond_weights == max(masked.choice, masked.decoder)


@pytest.mark.parametrize("config", [TOKENIZER, VIT])
def test_the_decoder_is_traced_as_it_runs(config: TokenizerConfig) -> None:
    model = Tokenizer(config).eval()
    latents = torch.randn(3, config.codebook_dim, 8, 8)
    with torch.no_grad(), LiveBytes([*model.parameters(), *model.buffers()]) as live:
        model.decode_vectors(latents).clamp(-1, 1)
    # On the meta device attention is made of several operations, on the CPU it is one.
    assert live.peak <= decoder_bytes(config, 3) <= (1.0 if config is TOKENIZER else 1.5) * live.peak
    assert decoder_bytes(config, 6) == pytest.approx(2 * decoder_bytes(config, 3), rel=0.02)
    del latents
    assert live.now <= 3 * 3 * 32 * 32 * 4


def test_live_bytes_come_and_go() -> None:
    given = torch.zeros(1000)
    with LiveBytes([given]) as live:
        a = given + 1  # 4,000 bytes
        assert live.now == 4000
        b = a.view(10, 100).t()
        assert live.now == 4000
        c = torch.cat([a, a])
        assert live.now == 12000
        del a, b, c
        assert live.now == 0
    assert live.peak == 12000


def test_guidance_doubles_the_cache_and_the_peak_is_the_largest_of_the_phases() -> None:
    plain = sampling_memory(PRIOR, TOKENIZER, 64, settings=SamplingConfig())
    guided = sampling_memory(PRIOR, TOKENIZER, 64, settings=SamplingConfig(cfg_scale=2.0))
    assert guided.cache == 2 * plain.cache
    assert guided.choice >= plain.choice
    assert guided.peak >= guided.weights + guided.cache + guided.choice
    assert guided.peak >= guided.weights + guided.decoder
    on_gpu = sampling_memory(PRIOR, TOKENIZER, 64, device="cuda")
    assert on_gpu.loading == on_gpu.weights
    assert plain.weights == on_gpu.weights + laid_out_bytes(PRIOR)


def test_the_automatic_batch_follows_memory_and_number() -> None:
    plenty = 2**40
    assert auto_batch(PRIOR, TOKENIZER, 1000, plenty) == 63  # 16 batches of as good as one size
    assert auto_batch(PRIOR, TOKENIZER, 65, plenty) == 33
    assert auto_batch(PRIOR, TOKENIZER, 7, plenty) == 7
    assert auto_batch(PRIOR, TOKENIZER, 64, plenty, processes=4) == 16
    assert auto_batch(PRIOR, TOKENIZER, 10**6, plenty, device="cuda") == 256
    assert auto_batch(PRIOR, TOKENIZER, 1000, 0) == 1
    little = 2 * sampling_memory(PRIOR, TOKENIZER, 16).beyond_weights
    assert auto_batch(PRIOR, TOKENIZER, 16, little) == 16
    assert auto_batch(PRIOR, TOKENIZER, 16, little - 2) == 8


def test_free_memory_is_shared_and_bounded_by_a_container(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert 2**20 < free_memory(cpu) < 2**50
    monkeypatch.setattr(memory, "_container_limits", lambda: [3 * 2**20])
    assert free_memory(cpu, processes=3) == 2**20


def test_few_large_images_are_decoded_at_once() -> None:
    large = TokenizerConfig(image_size=1024, multipliers=(1, 2, 4))
    assert [decoded_at_once(c) for c in (TOKENIZER, large)] == [256, 1]


def test_dry_run_says_what_it_would_take_and_writes_nothing(model: Path, tmp_path: Path, capsys: Any) -> None:
    # The weights are not even looked for.
    for stage in ("tokenizer", "prior"):
        (tmp_path / stage).mkdir()
        (tmp_path / stage / "config.json").write_text((model / stage / "config.json").read_text())
    before = sorted(tmp_path.rglob("*"))
    command = ["sample", "--model", tmp_path, "--dry-run", "--json", "--n", "40", "--cfg-scale", "2"]
    assert run(*command, "--batch-size", "8") == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["batch_size"], figures["rows"], figures["steps"]) == (8, 16, 5 * 64)
    prior = Prior.from_pretrained(model / "prior")
    assert figures["parameters"]["prior"] == prior.parameter_count()
    assert figures["memory_mib"]["cache"] == round(cache_bytes(prior.config, 16) / 2**20, 3)
    assert figures["memory_mib"]["peak"] > figures["memory_mib"]["weights"]
    assert run(*command, "--batch-size", "8", "--dtype", "bf16") == 0
    half = json.loads(capsys.readouterr().out)["memory_mib"]
    assert half["cache"] * 2 == pytest.approx(figures["memory_mib"]["cache"], abs=2e-3)
    assert half["weights"] < figures["memory_mib"]["weights"]
    assert half["loading"] == figures["memory_mib"]["loading"]
    assert run(*command, "--batch-size", "auto") == 0
    assert json.loads(capsys.readouterr().out)["batch_size"] == 40
    assert run(*command, "--temperature", "1e-9") == 2
    assert run(*command[:-2], "--batch-size", "0") == 2
    assert sorted(tmp_path.rglob("*")) == before


def test_info_states_the_memory(model: Path, capsys: Any) -> None:
    assert run("info", model, "--json") == 0
    stated = json.loads(capsys.readouterr().out)["sampling_memory_mib"]
    assert 0 < stated["cache_an_image"] < stated["batch_1"] <= stated["batch_16"] <= stated["batch_64"]
