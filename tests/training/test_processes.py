"""Training with two processes (gloo, on the CPU)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ..pipelines.conftest import SMALL_PRIOR, SMALL_TOKENIZER, draw_images, run
from .processes import launch


def losses(model: Path, stage: str) -> list[float]:
    """Training loss of every log line."""
    lines = (model / "training" / stage / "log.jsonl").read_text().splitlines()
    return [row["loss"] for row in map(json.loads, lines) if "loss" in row]


def held_out(model: Path, stage: str) -> list[dict[str, float]]:
    """Held-out metrics of every evaluation."""
    lines = (model / "training" / stage / "log.jsonl").read_text().splitlines()
    return [row["held_out"] for row in map(json.loads, lines) if "held_out" in row]


def weights(model: Path, stage: str) -> dict[str, Tensor]:
    return load_file(model / stage / "model.safetensors")


def test_a_run_is_resumed_by_other_numbers_of_processes(tmp_path: Path) -> None:
    draw_images(tmp_path / "images")
    model = ["--model", str(tmp_path / "m")]
    command = ["tokenizer", "train", "--data", str(tmp_path / "images"), "--steps", "2", *SMALL_TOKENIZER]
    assert run(*command, *model) == 0
    done = launch(tmp_path, ["tokenizer", "train", *model, "--resume", "--steps", "4"])
    assert "saved by 1 processes, resumed with 2" in done.stderr
    assert run("tokenizer", "train", *model, "--resume", "--steps", "6") == 0
    assert len(held_out(tmp_path / "m", "tokenizer")) == 3


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of the same settings: `one` process; `two`; two that are sharded, and then resumed (`sharded`).

    `two-plain` and `micro-batches` are tokenizers without a discriminator, by two processes and by one with two
    micro-batches.
    """
    folder = tmp_path_factory.mktemp("processes")
    draw_images(folder / "images")
    every = ["--precision", "fp32", "--log-every", "1", "--lr", "1e-3", "--model"]
    adversarial = ["--discriminator-weight", "0.5", "--discriminator-start", "2", "--lpips-weight", "0"]
    tokenizer = ["tokenizer", "train", "--data", folder / "images", "--steps", "6", *SMALL_TOKENIZER]
    plain = [*tokenizer, "--lpips-weight", "0", "--dead-code-threshold", "2", *every]
    first = [*tokenizer, *adversarial, "--discriminator-adaptive", *every]
    second = ["prior", "train", *SMALL_PRIOR, "--dropout", "0.1", "--code-noise", "0.1", "--eval-images", "7"]
    second += ["--optimizer", "muon", *every]
    one, two, sharded = (folder / name for name in ("one", "two", "sharded"))
    assert run(*first, one) == 0
    for model in (two, sharded):
        shutil.copytree(one / "tokenizer", model / "tokenizer")
    assert run(*second, one, "--steps", "6") == 0
    assert run(*plain, folder / "micro-batches", "--gradient-accumulation-steps", "2") == 0
    launch(
        folder,
        [*plain, folder / "two-plain"],
        [*first, folder / "two-tokenizer"],
        [*second, two, "--steps", "6"],
        [*first, folder / "sharded-tokenizer", "--shard"],
        [*second, sharded, "--steps", "4", "--shard"],
        ["prior", "train", "--resume", "--model", sharded, "--steps", "6"],
    )
    return folder


@pytest.mark.parametrize("name", ["two", "sharded"])
@pytest.mark.parametrize("stage", ["tokenizer", "prior"])
def test_two_processes_train_as_one(runs: Path, name: str, stage: str) -> None:
    """With dropout, noise, condition dropout, replaced codes, adaptive weight, held-out means and resume."""
    model = runs / (f"{name}-tokenizer" if stage == "tokenizer" else name)
    assert losses(model, stage) == pytest.approx(losses(runs / "one", stage), rel=1e-4)
    for own, alone in zip(held_out(model, stage)[-1:], held_out(runs / "one", stage)[-1:], strict=True):
        assert own == pytest.approx(alone, rel=1e-3)
    one, other = weights(runs / "one", stage), weights(model, stage)
    assert one.keys() == other.keys()
    for key in one:
        torch.testing.assert_close(other[key], one[key], atol=1e-4, rtol=1e-3)


def test_two_processes_are_one_with_two_micro_batches_bit_for_bit(runs: Path) -> None:
    """Also where codes are replaced. With the whole batch at once, sums are rounded differently."""
    two, one = runs / "two-plain", runs / "micro-batches"
    assert losses(two, "tokenizer") == losses(one, "tokenizer")
    assert (two / "tokenizer/model.safetensors").read_bytes() == (
        one / "tokenizer/model.safetensors"
    ).read_bytes()


def test_the_state_of_a_sharded_run_resumes_in_one_process(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "sharded", tmp_path / "m")
    assert run("prior", "train", "--resume", "--model", tmp_path / "m", "--steps", "8", "--no-shard") == 0
    assert len(losses(tmp_path / "m", "prior")) == 8


def test_sharding_needs_several_processes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw_images(tmp_path / "images")
    command = ["tokenizer", "train", "--data", str(tmp_path / "images"), *SMALL_TOKENIZER]
    assert run(*command, "--model", tmp_path / "m", "--shard") == 1
    assert "start with torchrun" in capsys.readouterr().err.splitlines()[-1]
