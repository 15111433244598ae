"""The measuring itself: what is counted, who takes turns, what is printed."""

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
from imgtf.bench import machine, sampling, timing
from imgtf.bench.config import BenchConfig
from imgtf.bench.cost import Cost, block_weights, coding_flops, sampling_cost, training_flops
from imgtf.bench.machine import Limits
from imgtf.bench.reference import llama
from imgtf.bench.report import save, to_markdown
from imgtf.bench.run import random_networks
from imgtf.bench.sampling import Case, Method, bench_sampling, versus, ways
from imgtf.bench.timing import Measurement, PeakMemory, Timing, ratio_of, take_turns
from imgtf.bench.training import TrainingSetup, bench_training
from imgtf.errors import ConfigError
from imgtf.prior.config import PriorConfig, SamplingConfig
from imgtf.tokenizer.config import TokenizerConfig

from .conftest import run

CPU = torch.device("cpu")
PRIOR = PriorConfig(grid=(4, 4), codebook_size=64, class_names=("a", "b"), width=32, depth=2, heads=2)
WITH_TRANSFORMERS = importlib.util.find_spec("transformers") is not None


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "SHORTEST", 0.0)
    monkeypatch.setattr(machine, "LARGE", {"cpu": 2**22})
    monkeypatch.setattr(machine, "SIDE", {"cpu": 64})
    monkeypatch.setattr(machine, "TRIES", 1)


def test_all_take_turns_and_the_first_round_does_not_count() -> None:
    calls: list[str] = []
    acts = [Measurement(name, lambda name=name: calls.append(name)) for name in "ab"]
    timings = take_turns(acts, 3, CPU)
    assert calls == list("ab" * 4)
    assert [len(t.seconds) for t in timings] == [3, 3]


def test_what_is_short_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "SHORTEST", 0.2)
    calls: list[int] = []
    take_turns([Measurement("short", lambda: calls.append(1))], 1, CPU)
    assert len(calls) == 1 + timing.MOST_REPEATS


def test_medians_and_ratios() -> None:
    own, others = Timing((1.0, 9.0, 2.0), None), Timing((3.0, 18.0, 8.0), None)
    assert own.median == 2.0
    assert ratio_of(others, own) == 3.0  # of 3, 2 and 4, whatever the pace of each round


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_peak_memory_sees_what_is_freed_again_and_forgets_what_was_before() -> None:
    with PeakMemory(CPU) as large:
        torch.ones(2**25).sum()
    with PeakMemory(CPU) as small:
        torch.ones(2**20).sum()
    assert large.peak is not None
    assert small.peak is not None
    assert large.peak - small.peak > 2**26


@pytest.mark.parametrize("objective", ["raster", "masked"])
def test_operations_of_a_training_step_are_those_that_torch_counts(objective: str) -> None:
    config = replace(PRIOR, objective=objective)
    prior = Prior(config)
    codes = torch.randint(64, (3, 16))
    with FlopCounterMode(display=False) as counter:
        prior(codes).sum().backward()
    # Torch counts causal attention in full, and its backward pass as two and a half of the forward one.
    assert training_flops(config, 3) == pytest.approx(counter.get_total_flops(), rel=0.1)


def test_the_cost_of_sampling_grows_as_it_should() -> None:
    plain = SamplingConfig()
    one, two = (sampling_cost(PRIOR, rows, plain, torch.float32) for rows in (1, 2))
    assert two.flops == 2 * one.flops
    weights = 16 * (block_weights(PRIOR) + 64 * 32) * 4
    assert weights < one.bytes < two.bytes < 1.5 * weights
    assert sampling_cost(PRIOR, 1, plain, torch.bfloat16).bytes * 2 == one.bytes
    # Causal sampling does the work of one forward pass, whatever the number of steps.
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
        assert many.flops < few.flops < 2 * many.flops  # the slots beside the last


@pytest.mark.parametrize(
    "told",
    [
        {"class_names": ("a", "b")},
        {"text_length": 8},
        {"feature_width": 6, "feature_length": 5},
        {"feature_width": 6, "feature_length": 5, "feature_prefix": True},
        {"image_grid": (2, 2), "image_codebook_size": 9},
        {"objective": "masked", "class_names": ("a",)},
        {"objective": "random", "rotary": None, "class_names": ("a",)},
        {},
    ],
)
def test_every_kind_of_prior_can_be_measured(told: dict[str, Any], tmp_path: Path) -> None:
    config = replace(PRIOR, **{"class_names": (), **told})
    prior = Prior(config).eval()
    limits = Limits(1e9, 1e9, {torch.float32: 1e9, torch.bfloat16: 1e9})
    bench_config = BenchConfig(rounds=1, batch_sizes=(2,), training_batch=2, precision="fp32")
    rows = bench_sampling(prior, limits, bench_config)
    assert [row["guidance"] for row in rows] == ([1.0, 2.0] if told else [1.0])
    tokenizer = Tokenizer(TokenizerConfig(image_size=8, width=8, multipliers=(1, 2), norm_groups=4))
    shop = TrainingSetup(tokenizer, prior, bench_config, tmp_path)
    assert [row["stage"] for row in bench_training(shop, limits, bench_config)] == ["prior", "tokenizer"]


def test_the_limit_is_the_larger_of_the_two() -> None:
    limits = Limits(read=10.0, copy=10.0, flops={torch.float32: 100.0})
    assert Cost(bytes=50, flops=100).limit(limits, torch.float32) == (5.0, "memory")
    assert Cost(bytes=5, flops=100).limit(limits, torch.float32) == (1.0, "arithmetic")


def test_coding_operations_are_those_of_the_networks() -> None:
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


def test_ratios_stand_beside_the_same_batch_only() -> None:
    ours = Method("ours", lambda images, guidance: None, torch.float32)
    theirs = Method("theirs", lambda images, guidance: None, torch.float32, guides=False)
    cases = [Case(ours, 1, 1.0), Case(theirs, 1, 1.0), Case(ours, 8, 1.0), Case(ours, 1, 2.0)]
    timings = [Timing((s,), None) for s in (1.0, 4.0, 2.0, 2.0)]
    found = [versus(c, t, cases, timings) for c, t in zip(cases, timings, strict=True)]
    assert found == [{"over transformers": 4.0}, {}, {}, {}]


@pytest.mark.skipif(not WITH_TRANSFORMERS, reason="needs transformers")
def test_transformers_draws_as_many_tokens_with_the_same_shape() -> None:
    generate = llama(PRIOR, 10, CPU, torch.float32)
    tokens = generate(3)
    assert tokens.shape == (3, 1 + PRIOR.tokens)
    with pytest.raises(ConfigError, match="swiglu"):
        llama(PriorConfig(grid=(4, 4), codebook_size=64, feed_forward="gelu"), 10, CPU, torch.float32)


def test_markdown_has_a_table_for_each_list_and_a_dash_for_the_unknown(tmp_path: Path) -> None:
    report: dict[str, Any] = {
        "model": "x",
        "machine": {"cores": 2},
        "sampling": [{"way": "a", "tokens/s": 1234.5}, {"way": "b", "tokens/s": 0.01234, "ratio": None}],
    }
    text = to_markdown(report)
    assert "| a | 1,234 | - |" in text
    assert "| b | 0.0123 | - |" in text
    save(report, tmp_path / "new" / "b", force=False)
    assert json.loads((tmp_path / "new" / "b.json").read_text()) == report
    with pytest.raises(ConfigError, match=r"b\.md is there already"):
        save(report, tmp_path / "new" / "b.md", force=False)
    save(report, tmp_path / "new" / "b.md", force=True)


def test_bench_measures_everything(model: Path, images: Path, tmp_path: Path, capsys: Any) -> None:
    against = ["--against", "transformers"] if WITH_TRANSFORMERS else []
    sizes = ["--rounds", "1", "--batch-sizes", "1,2", "--training-batch", "4", "--loader-batches", "2"]
    before = {p: p.stat().st_mtime_ns for p in model.rglob("*")}
    out = tmp_path / "out.md"
    command = ["bench", "--model", model, "--data", images, *sizes, *against, "--json", "--out", out]
    assert run(*command) == 0
    report = json.loads(capsys.readouterr().out)
    ours = [row for row in report["sampling"] if "imgtf" in row["way"]]
    assert [(row["batch"], row["guidance"]) for row in ours] == [(1, 1.0), (1, 2.0), (2, 1.0), (2, 2.0)]
    for row in report["sampling"]:
        assert row["tokens/s"] == pytest.approx(64 * row["images/s"])
        assert row["share of limit"] > 0
    assert len(report["sampling"]) == 4 + 2 * WITH_TRANSFORMERS
    assert [(r["what"], r["arithmetic"]) for r in report["tokenizer coding"]] == [
        ("encode", "fp32"), ("encode", "bf16"), ("decode", "fp32"), ("decode", "bf16"),
    ]  # fmt: skip
    assert [row["stage"] for row in report["training"]] == ["prior", "tokenizer"]
    assert [row["for the stage"] for row in report["loader"]] == ["prior", "tokenizer"]
    assert {p: p.stat().st_mtime_ns for p in model.rglob("*")} == before
    assert "## Sampling" in out.read_text()
    assert run(*command) == 1


def test_sampling_is_measured_in_the_type_that_is_asked_for(capsys: Any) -> None:
    sizes = ["--parts", "sampling", "--rounds", "1", "--batch-sizes", "1", "--guidance", "1"]
    assert run("bench", *sizes, "--dtype", "bf16", "--json") == 0
    assert [row["way"] for row in json.loads(capsys.readouterr().out)["sampling"]] == ["imgtf, eager, bf16"]
    assert run("bench", *sizes, "--dtype", "int8", "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)["sampling"]
    assert row["way"] == "imgtf, eager, int8"
    assert 0 < row["share of limit"] < 1


def test_compiled_sampling_is_one_more_way(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[bool, bool]] = []
    monkeypatch.setattr(sampling, "sample", lambda *args, compile, capture: asked.append((compile, capture)))
    found = ways(Prior(PRIOR).eval(), BenchConfig(compile=True))
    assert [way.name for way in found] == ["imgtf, eager, fp32", "imgtf, compiled, fp32"]
    for way in found:
        way.draw(1, 1.0)
    assert asked == [(False, False), (True, True)]  # captured only where there is a GPU


def test_bench_measures_only_what_is_asked_for(capsys: Any) -> None:
    assert run("bench", "--parts", "loader", "--rounds", "1", "--training-batch", "2", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert not {"sampling", "training", "tokenizer coding"} & set(report)
    assert [row["reads"] for row in report["loader"]] == ["codes"]  # images are timed where they are named
