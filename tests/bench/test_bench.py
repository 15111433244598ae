"""`imgtf bench`: counted costs, timing in turn, the tables."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from imgtf import Prior, Tokenizer
from imgtf.bench import machine, timing, training
from imgtf.bench.config import BenchConfig
from imgtf.bench.cost import Cost, block_weights, coding_flops, sampling_cost, training_flops
from imgtf.bench.machine import Limits
from imgtf.bench.networks import random_networks
from imgtf.bench.random_data import random_codes, random_condition
from imgtf.bench.reference import make_llama
from imgtf.bench.report import save, to_markdown
from imgtf.bench.sampling import Case, Method, bench_sampling, compare, make_methods
from imgtf.bench.timing import Measurement, PeakMemory, Timing, measure_in_turn, speedup
from imgtf.bench.training import TrainingSetup, bench_training
from imgtf.errors import ConfigError
from imgtf.prior.conditions.base import ConditionConfig
from imgtf.prior.conditions.features import FeaturesConfig
from imgtf.prior.conditions.image import ImageConfig
from imgtf.prior.conditions.label import LabelConfig
from imgtf.prior.conditions.text import TextConfig
from imgtf.prior.config import PriorConfig, SamplingConfig
from imgtf.tokenizer.config import TokenizerConfig

from .conftest import run

CPU = torch.device("cpu")
LABELS = LabelConfig(class_names=("a", "b"))
PRIOR = PriorConfig(grid=(4, 4), codebook_size=64, conditions=(LABELS,), width=32, depth=2, heads=2)
CONDITIONS: list[tuple[ConditionConfig, ...]] = [
    (),
    (LABELS,),
    (TextConfig(max_bytes=8),),
    (FeaturesConfig(width=6, tokens=5),),
    (FeaturesConfig(width=6, tokens=5, prefix=True),),
    (LABELS, ImageConfig(grid=(2, 2), codebook_size=9)),
]
HAS_TRANSFORMERS = importlib.util.find_spec("transformers") is not None


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "MIN_SECONDS", 0.0)
    monkeypatch.setattr(machine, "BUFFER_BYTES", {"cpu": 2**22})
    monkeypatch.setattr(machine, "MATRIX_SIZE", {"cpu": 64})
    monkeypatch.setattr(machine, "REPEATS", 1)
    monkeypatch.setattr(training, "BATCH_SIZE", 2)
    monkeypatch.setattr(training, "LOADER_BATCHES", 2)


def test_every_round_measures_all_and_the_first_does_not_count() -> None:
    calls: list[str] = []
    measurements = [Measurement(name, lambda name=name: calls.append(name)) for name in "ab"]
    timings = measure_in_turn(measurements, 3, CPU)
    assert calls == list("ab" * 4)
    assert [len(t.seconds) for t in timings] == [3, 3]


def test_fast_functions_are_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "MIN_SECONDS", 0.2)
    calls: list[int] = []
    measure_in_turn([Measurement("fast", lambda: calls.append(1))], 1, CPU)
    assert len(calls) == 1 + timing.MAX_REPEATS


def test_the_speedup_is_the_median_of_the_ratios_of_each_round() -> None:
    own, baseline = Timing((1.0, 9.0, 2.0), None), Timing((3.0, 18.0, 8.0), None)
    assert own.median == 2.0
    assert speedup(baseline, own) == 3.0  # the median of 3, 2 and 4


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_peak_memory_counts_freed_tensors_but_not_earlier_ones() -> None:
    with PeakMemory(CPU) as large:
        torch.ones(2**25).sum()
    with PeakMemory(CPU) as small:
        torch.ones(2**20).sum()
    assert large.peak is not None
    assert small.peak is not None
    assert large.peak - small.peak > 2**26


@pytest.mark.parametrize("objective", ["raster", "masked"])
def test_training_operations_agree_with_torch(objective: str) -> None:
    config = replace(PRIOR, objective=objective)
    prior = Prior(config)
    codes = torch.randint(64, (3, 16))
    with FlopCounterMode(display=False) as counter:
        prior(codes).sum().backward()
    # torch counts causal attention in full, and its backward pass as two and a half times the forward pass.
    assert training_flops(config, 3) == pytest.approx(counter.get_total_flops(), rel=0.1)


def test_sampling_cost_follows_rows_and_precision() -> None:
    settings = SamplingConfig()
    one, two = (sampling_cost(PRIOR, rows, settings, torch.float32) for rows in (1, 2))
    assert two.flops == 2 * one.flops
    weights = 16 * (block_weights(PRIOR) + 64 * 32) * 4
    assert weights < one.bytes < two.bytes < 1.5 * weights
    assert sampling_cost(PRIOR, 1, settings, torch.bfloat16).bytes * 2 == one.bytes
    # All steps of causal sampling together have the operations of one forward pass.
    assert one.flops == training_flops(PRIOR, 1) / 3


@pytest.mark.parametrize("objective", ["random", "masked"])
def test_fewer_steps_read_the_weights_less_often(objective: str) -> None:
    config = replace(PRIOR, objective=objective, rotary=None)
    few, many = (
        sampling_cost(config, 1, SamplingConfig(sampling_steps=steps), torch.float32) for steps in (4, 16)
    )
    assert few.bytes < 0.3 * many.bytes
    if objective == "masked":
        assert few.flops * 4 == many.flops
    else:
        assert many.flops < few.flops < 2 * many.flops  # the extra tokens


@pytest.mark.parametrize("objective", ["raster", "random", "masked"])
@pytest.mark.parametrize("conditions", CONDITIONS, ids=lambda c: "+".join(x.kind for x in c) or "none")
def test_every_prior_can_be_measured(
    objective: str, conditions: tuple[ConditionConfig, ...], tmp_path: Path
) -> None:
    prior = Prior(replace(PRIOR, objective=objective, rotary=None, conditions=conditions)).eval()
    limits = Limits(1e9, 1e9, {torch.float32: 1e9, torch.bfloat16: 1e9})
    config = BenchConfig(rounds=1, batch_sizes=(2,), precision="fp32")
    rows = bench_sampling(prior, "fp32", limits, config)
    assert [row["cfg scale"] for row in rows] == ([1.0, 2.0] if conditions else [1.0])
    tokenizer = Tokenizer(TokenizerConfig(image_size=8, width=8, multipliers=(1, 2), norm_groups=4))
    setup = TrainingSetup(tokenizer, prior, config, tmp_path)
    assert [row["stage"] for row in bench_training(setup, limits, config)] == ["prior", "tokenizer"]


def test_random_data_have_all_conditions(tmp_path: Path) -> None:
    config = replace(PRIOR, conditions=(LABELS, TextConfig(max_bytes=8), FeaturesConfig(width=6, tokens=5)))
    condition = random_condition(config, 3)
    assert {kind: tuple(value.shape) for kind, value in condition.items()} == {
        "label": (3,), "text": (3, 8), "features": (3, 5, 6),
    }  # fmt: skip
    codes = random_codes(tmp_path / "codes", config, 3)
    assert [row["label"] for row in codes] == condition["label"].tolist() == [0, 1, 0]
    assert codes[0]["codes"].shape == (16,)


def test_the_shortest_time_is_that_of_the_slower_resource() -> None:
    limits = Limits(read=10.0, copy=10.0, flops={torch.float32: 100.0})
    assert Cost(bytes=50, flops=100).shortest_time(limits, torch.float32) == (5.0, "memory")
    assert Cost(bytes=5, flops=100).shortest_time(limits, torch.float32) == (1.0, "arithmetic")


def test_decoding_operations_agree_with_torch() -> None:
    config = TokenizerConfig(image_size=16, width=8, multipliers=(1, 2), latent_width=8, norm_groups=4)
    model = Tokenizer(config).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.decode_vectors(torch.randn(1, config.codebook_dim, 8, 8))
    encoder, decoder = coding_flops(config)
    assert decoder == pytest.approx(counter.get_total_flops(), rel=0.02)
    assert 0 < encoder < decoder


def test_random_networks_follow_the_presets() -> None:
    tokenizer, prior = random_networks("tiny", CPU)
    assert prior.config.grid == tokenizer.config.grid
    assert all(parameter.any() for parameter in prior.parameters())
    with pytest.raises(ConfigError, match="tiny"):
        random_networks("huge", CPU)


def test_methods_are_compared_at_the_same_batch_size_and_guidance() -> None:
    ours = Method("ours", lambda images, cfg_scale: None, torch.float32)
    theirs = Method("theirs", lambda images, cfg_scale: None, torch.float32, guided=False)
    cases = [Case(ours, 1, 1.0), Case(theirs, 1, 1.0), Case(ours, 8, 1.0), Case(ours, 1, 2.0)]
    timings = [Timing((s,), None) for s in (1.0, 4.0, 2.0, 2.0)]
    found = [compare(c, t, cases, timings) for c, t in zip(cases, timings, strict=True)]
    assert found == [{"speedup over transformers": 4.0}, {}, {}, {}]


@pytest.mark.skipif(not HAS_TRANSFORMERS, reason="needs transformers")
def test_transformers_samples_as_many_tokens() -> None:
    generate = make_llama(PRIOR, 10, CPU, torch.float32)
    assert generate(3).shape == (3, 1 + PRIOR.tokens)
    with pytest.raises(ConfigError, match="swiglu"):
        make_llama(PriorConfig(grid=(4, 4), codebook_size=64, feed_forward="gelu"), 10, CPU, torch.float32)


def test_compilation_adds_a_method() -> None:
    prior = Prior(PRIOR).eval()
    methods = [make_methods(prior, "fp32", BenchConfig(compile=compile)) for compile in (False, True)]
    assert [[method.name for method in own] for own in methods] == [
        ["imgtf, eager, fp32"],
        ["imgtf, eager, fp32", "imgtf, compiled, fp32"],
    ]


def test_markdown_has_a_table_per_list_and_a_dash_for_missing_values(tmp_path: Path) -> None:
    report: dict[str, Any] = {
        "model": "x",
        "machine": {"cores": 2},
        "sampling": [{"method": "a", "tokens/s": 1234.5}, {"method": "b", "tokens/s": 0.01234, "peak": None}],
    }
    text = to_markdown(report)
    assert "| a | 1,234 | - |" in text
    assert "| b | 0.0123 | - |" in text
    save(report, tmp_path / "new" / "b", force=False)
    assert json.loads((tmp_path / "new" / "b.json").read_text()) == report
    with pytest.raises(ConfigError, match=r"b\.md exists"):
        save(report, tmp_path / "new" / "b", force=False)
    save(report, tmp_path / "new" / "b", force=True)


def test_bench_measures_everything(model: Path, images: Path, tmp_path: Path, capsys: Any) -> None:
    against = ["--against", "transformers"] if HAS_TRANSFORMERS else []
    before = {p: p.stat().st_mtime_ns for p in model.rglob("*")}
    sizes = ["--rounds", "1", "--batch-sizes", "1,2"]
    command = ["bench", "--model", model, "--data", images, *sizes, *against, "--json", "--out", tmp_path]
    assert run(*command) == 0
    report = json.loads(capsys.readouterr().out)
    ours = [row for row in report["sampling"] if "imgtf" in row["method"]]
    assert [(row["batch size"], row["cfg scale"]) for row in ours] == [(1, 1.0), (1, 2.0), (2, 1.0), (2, 2.0)]
    for row in report["sampling"]:
        assert row["tokens/s"] == pytest.approx(64 * row["images/s"])
        assert row["fraction of the limit"] > 0
    assert len(report["sampling"]) == 4 + 2 * HAS_TRANSFORMERS
    assert [(r["operation"], r["precision"]) for r in report["encoding and decoding"]] == [
        ("encode", "fp32"), ("encode", "bf16"), ("decode", "fp32"), ("decode", "bf16"),
    ]  # fmt: skip
    assert [row["stage"] for row in report["training"]] == ["prior", "tokenizer"]
    assert [row["stage"] for row in report["loader"]] == ["prior", "tokenizer"]
    assert {p: p.stat().st_mtime_ns for p in model.rglob("*")} == before
    assert "## Sampling" in (tmp_path / "bench.md").read_text()
    assert run(*command) == 1
    assert "bench.md exists" in capsys.readouterr().err


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_sampling_is_measured_in_the_given_precision(precision: str, capsys: Any) -> None:
    sizes = ["--parts", "sampling", "--rounds", "1", "--batch-sizes", "1", "--cfg-scale", "1"]
    assert run("bench", *sizes, "--precision", precision, "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)["sampling"]
    assert row["method"] == f"imgtf, eager, {precision}"
    assert row["fraction of the limit"] > 0


def test_training_in_int8_uses_the_automatic_precision() -> None:
    assert BenchConfig(precision="int8").training_precision == "auto"
    assert BenchConfig(precision="bf16").training_precision == "bf16"


def test_bench_measures_only_the_given_parts(capsys: Any) -> None:
    assert run("bench", "--parts", "loader", "--rounds", "1", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert not {"sampling", "training", "encoding and decoding"} & set(report)
    assert [row["input"] for row in report["loader"]] == ["codes"]  # noise images are not measured
