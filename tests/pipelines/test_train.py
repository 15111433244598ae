"""Training both stages through the command line: what is written, and that resuming is exact."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from imgtf.pipelines import regularisation
from imgtf.pipelines.settings import preset_values
from imgtf.prior.model import Prior
from imgtf.prior.train import PriorStage
from imgtf.runtime import threads
from imgtf.tokenizer.model import Tokenizer
from imgtf.tokenizer.train import TokenizerStage
from imgtf.training.lock import only_run
from imgtf.training.report import Report
from imgtf.training.states import latest_state

from .conftest import SMALL_PRIOR, SMALL_TOKENIZER, draw_images, run


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch, number: int = signal.SIGINT) -> None:
    """Sends this process a signal, Ctrl-C, in the middle of a step."""
    original = Report.advance
    done = [0]

    def advance(self: Report) -> None:
        original(self)
        done[0] += 1
        if done[0] == step:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Report, "advance", advance)


def final_state(folder: Path, stage: str) -> dict[str, torch.Tensor]:
    state = latest_state(folder / "training" / stage / "state")
    assert state is not None
    names = ("model", "ema", "optimizer", "muon", "random-0")
    files = {n: state / f"{n}.safetensors" for n in names}
    tensors = {f"{n}.{k}": v for n, f in files.items() if f.exists() for k, v in load_file(f).items()}
    return tensors | {f"kept.{k}": v for k, v in load_file(folder / stage / "model.safetensors").items()}


def log_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


@pytest.mark.parametrize(
    ("stage", "more"),
    [
        ("tokenizer", []),
        ("tokenizer", ["--optimizer", "muon", "--stem", "2"]),
        ("prior", []),
        ("prior", ["--objective", "random", "--anneal", "0.2,0.9", "--drop-path", "0.2"]),
        ("prior", ["--objective", "masked", "--conditioning-size", "8", "--attention-dropout", "0.2"]),
    ],
)
def test_interrupted_and_resumed_equals_uninterrupted(
    stage: str,
    more: list[str],
    images: Path,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    small = [*(SMALL_TOKENIZER if stage == "tokenizer" else SMALL_PRIOR), *more]
    for name in ("whole", "halved"):
        (tmp_path / name).mkdir()
        if stage == "prior":
            (tmp_path / name / "tokenizer").symlink_to(model / "tokenizer")
    command = [stage, "train", "--data", images, "--steps", "11", *small, "--model"]
    assert run(*command, tmp_path / "whole") == 0
    with monkeypatch.context() as patch:
        stop_at(5, patch)
        assert run(*command, tmp_path / "halved") == 130
    assert "--resume" in capsys.readouterr().err
    assert latest_state(tmp_path / "halved" / "training" / stage / "state").name == "step-00000005"  # type: ignore[union-attr]
    assert run(stage, "train", "--resume", "--model", tmp_path / "halved") == 0
    assert_same(final_state(tmp_path / "whole", stage), final_state(tmp_path / "halved", stage))
    logs = [log_rows(tmp_path / name / "training" / stage / "log.jsonl") for name in ("whole", "halved")]
    assert [row["step"] for row in logs[0]] == [row["step"] for row in logs[1]]
    assert [r["held_out"] for r in logs[0] if "held_out" in r] == [
        r["held_out"] for r in logs[1] if "held_out" in r
    ]


@pytest.mark.parametrize(("saved", "other"), [("adamw", "muon"), ("muon", "adamw")])
def test_a_run_does_not_go_on_with_another_optimizer(
    saved: str, other: str, images: Path, tmp_path: Path, capsys: Any
) -> None:
    model = ["--model", tmp_path]
    train = ["tokenizer", "train", "--data", images, "--steps", "2", *SMALL_TOKENIZER]
    assert run(*train, "--optimizer", saved, *model) == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")}
    resume = ["tokenizer", "train", "--resume", "--steps", "4", *model]
    assert run(*resume, "--optimizer", other) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("Error: ")
    assert f"resume with --optimizer {saved}" in line
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")}
    assert run(*resume) == 0


def test_accumulated_micro_batches_give_the_update_of_the_whole_batch(images: Path, tmp_path: Path) -> None:
    flags = ["--l1-weight", "0", "--codebook-decay", "1", "--dead-code-threshold", "0", "--precision", "fp32"]
    for parts in ("1", "4"):
        command = ["tokenizer", "train", "--data", images, "--model", tmp_path / parts, "--steps", "1"]
        assert (
            run(*command, *SMALL_TOKENIZER, *flags, "--gradient-accumulation-steps", parts, "--no-flip") == 0
        )
    a, b = (load_file(tmp_path / parts / "tokenizer" / "model.safetensors") for parts in ("1", "4"))
    # Only the weights: the codebook counts every part.
    for name in (n for n in a if "quantizer" not in n):
        torch.testing.assert_close(a[name], b[name], atol=1e-5, rtol=1e-4)


def test_a_run_writes_all_documented_files(model: Path) -> None:
    for stage in ("tokenizer", "prior"):
        settings = tomllib.loads((model / stage / "train.toml").read_text())
        assert settings["steps"] == 8
        rows = log_rows(model / "training" / stage / "log.jsonl")
        assert [row["step"] for row in rows if "loss" in row] == [2, 4, 6, 8]
        assert [row["step"] for row in rows if "held_out" in row] == [4, 8]
        with Image.open(model / "training" / stage / "previews" / "step-00000008.png") as image:
            assert image.width > 64
    usage = [row["usage"] for row in rows if "usage" in row]
    assert usage == []  # the prior has no codebook
    card = (model / "README.md").read_text()
    assert "blue, green, red" in card
    assert "bits_per_token" in card
    assert not list(model.rglob("*.tmp"))


def test_the_prior_follows_tokenizer_and_data(model: Path) -> None:
    tokenizer, prior = Tokenizer.from_pretrained(model / "tokenizer"), Prior.from_pretrained(model / "prior")
    assert tokenizer.config.channels == 3
    assert prior.config.class_names == ("blue", "green", "red")
    assert prior.config.grid == tokenizer.config.grid == (8, 8)
    assert prior.config.tokenizer_sha256 == tokenizer.codes_sha256()


def test_saved_settings_repeat_the_run(model: Path, tmp_path: Path) -> None:
    config = model / "tokenizer" / "train.toml"
    assert run("tokenizer", "train", "--config", config, "--model", tmp_path / "again") == 0
    again = Tokenizer.from_pretrained(tmp_path / "again" / "tokenizer")
    assert again.weights_sha256() == Tokenizer.from_pretrained(model / "tokenizer").weights_sha256()


def test_nothing_is_overwritten_without_force(model: Path, images: Path, capsys: Any) -> None:
    before = Tokenizer.from_pretrained(model / "tokenizer").weights_sha256()
    assert (
        run("tokenizer", "train", "--data", images, "--model", model, "--steps", "2", *SMALL_TOKENIZER) == 1
    )
    assert "--resume" in capsys.readouterr().err
    assert Tokenizer.from_pretrained(model / "tokenizer").weights_sha256() == before


def test_force_replaces(images: Path, tmp_path: Path) -> None:
    command = [
        "tokenizer",
        "train",
        "--data",
        images,
        "--model",
        tmp_path / "m",
        "--steps",
        "2",
        *SMALL_TOKENIZER,
    ]
    assert run(*command) == 0
    first = Tokenizer.from_pretrained(tmp_path / "m" / "tokenizer").weights_sha256()
    assert run(*command, "--seed", "1", "--force") == 0
    assert Tokenizer.from_pretrained(tmp_path / "m" / "tokenizer").weights_sha256() != first


def test_beside_other_programs_a_run_trains_with_the_fastest_number_of_threads(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "busy_cores", lambda: 1.0)
    monkeypatch.setattr(threads, "_seconds", lambda: float(torch.get_num_threads()))
    original, used = Report.advance, []

    def advance(self: Report) -> None:
        used.append(torch.get_num_threads())
        original(self)

    monkeypatch.setattr(Report, "advance", advance)
    torch.set_num_threads(2)
    try:
        run("tokenizer", "train", "--data", images, "--model", tmp_path / "m", *SMALL_TOKENIZER)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert set(used) == {1}
    assert "threads: 1 in place of 2" in capsys.readouterr().err


def test_one_class_trains_without_labels(tmp_path: Path, capsys: Any) -> None:
    folder = draw_images(tmp_path / "images")
    for name in ("red", "green"):
        (folder / name).rename(tmp_path / name)
    command = ["--model", tmp_path / "m", "--steps", "2"]
    assert run("tokenizer", "train", "--data", folder, *command, *SMALL_TOKENIZER) == 0
    assert run("prior", "train", *command, *SMALL_PRIOR) == 0
    assert "only one class (blue)" in capsys.readouterr().err
    assert Prior.from_pretrained(tmp_path / "m" / "prior").config.class_names == ()


def test_no_held_out_images_still_train(images: Path, tmp_path: Path) -> None:
    command = ["--model", tmp_path / "m", "--steps", "2", "--held-out", "0"]
    assert run("tokenizer", "train", "--data", images, *command, *SMALL_TOKENIZER) == 0
    assert run("prior", "train", *command, *SMALL_PRIOR) == 0
    assert (tmp_path / "m" / "prior" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--batch-size", "500"], "fewer than a batch of 500"),
        (["--image-size", "15"], "not a multiple of 2"),
        (["--norm-groups", "3"], "groups"),
        (["--precision", "fp16"], "GPU"),
        (["--lr", "1e12", "--grad-clip", "0"], "the loss is not finite"),
        (["--resume"], "no tokenizer run to resume"),
    ],
)
def test_what_cannot_work_is_one_clear_line(
    extra: list[str], message: str, images: Path, tmp_path: Path, capsys: Any
) -> None:
    command = [
        "tokenizer",
        "train",
        "--data",
        images,
        "--model",
        tmp_path / "m",
        "--steps",
        "8",
        *SMALL_TOKENIZER,
    ]
    assert run(*command, *extra) == 1
    lines = capsys.readouterr().err.splitlines()
    assert message in lines[-1]
    assert lines[-1].startswith("Error: ")
    assert not (tmp_path / "m" / "tokenizer" / "model.safetensors").exists()


def test_a_full_disk_is_one_line_and_keeps_the_state_before(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from imgtf.runtime import durable
    from imgtf.training import checkpoint

    command = [
        "tokenizer",
        "train",
        "--data",
        images,
        "--model",
        tmp_path / "m",
        "--steps",
        "6",
        *SMALL_TOKENIZER,
    ]
    original, calls = checkpoint._write_shared, []

    def full(*arguments: Any) -> list[Path]:
        calls.append(1)
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        return original(*arguments)

    monkeypatch.setattr(durable, "PAUSES", (0.0, 0.0))
    monkeypatch.setattr(checkpoint, "_write_shared", full)
    assert run(*command, "--save-every", "3") == 1
    lines = capsys.readouterr().err.splitlines()
    assert "No space left on device" in lines[-1]
    assert [line for line in lines if "next try" in line] == lines[-3:-1]
    states = [p.name for p in (tmp_path / "m" / "training" / "tokenizer" / "state").iterdir()]
    assert states == ["step-00000003"]


def test_a_prior_is_not_resumed_on_the_codes_of_another_tokenizer(
    images: Path, model: Path, tmp_path: Path, capsys: Any
) -> None:
    shutil.copytree(model, tmp_path / "m")
    settings = (tmp_path / "m" / "prior" / "train.toml").read_text()
    other = ["--data", images, "--model", tmp_path / "m", "--steps", "1", "--seed", "1", "--force"]
    assert run("tokenizer", "train", *other, *SMALL_TOKENIZER) == 0
    assert run("prior", "train", "--model", tmp_path / "m", "--resume", "--steps", "10") == 1
    assert "another tokenizer" in capsys.readouterr().err.splitlines()[-1]
    before = Prior.from_pretrained(model / "prior").weights_sha256()
    assert Prior.from_pretrained(tmp_path / "m" / "prior").weights_sha256() == before
    assert (tmp_path / "m" / "prior" / "train.toml").read_text() == settings


def test_a_second_run_in_a_folder_is_refused_and_reading_goes_on(
    images: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with only_run(model, True):
        command = ["tokenizer", "train", "--data", images, "--model", model, "--force", *SMALL_TOKENIZER]
        assert run(*command) == 1
        assert f"(process {os.getpid()} on" in capsys.readouterr().err
        assert run("info", model) == 0
    assert (model / "tokenizer/model.safetensors").exists()


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGUSR1", 143)])
def test_a_signal_prints_the_command_that_resumes(
    name: str, code: int, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    folder = tmp_path / "my model"
    command = ["tokenizer", "train", "--data", images, "--model", folder, "--steps", "6", *SMALL_TOKENIZER]
    with monkeypatch.context() as patch:
        stop_at(1, patch, getattr(signal, name))
        assert run(*command) == code
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"Interrupted: stopped by {name} at step 1 of 6")
    resume = shlex.split(line.split("resume with: ")[1])
    assert run(*resume[1:], "--steps", "2") == 0
    assert run(*resume[1:], "--resume-from", "1", "--keep-states", "2", "--steps", "3") == 1
    assert "there are states of steps 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("few", "kind", "crop"), [(0.5, "random", ("random", 0.8)), (99, "shifted", ("shift", 1.0))]
)
def test_a_prior_of_auto_that_sees_few_images_often_trains_on_crops_of_each(
    few: float, kind: str, crop: tuple[str, float],
    images: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any,
) -> None:  # fmt: skip
    monkeypatch.setattr(regularisation, "FEW_PASSES", few)
    monkeypatch.setattr(regularisation, "MANY_PASSES", 1.0)
    shutil.copytree(model / "tokenizer", tmp_path / "tokenizer")
    train = ["prior", "train", "--model", tmp_path, "--data", images, "--batch-size", "8"]
    assert run(*train, "--steps", "6") == 0
    assert f"8 {kind} crops of each image" in capsys.readouterr().err
    written = tomllib.loads((tmp_path / "prior" / "train.toml").read_text())
    assert (written["crop"], written["crop_scale"], written["crops_per_image"]) == (*crop, 8)
    caches = len(list((tmp_path / "codes").iterdir()))
    assert run("prior", "train", "--resume", "--model", tmp_path, "--steps", "8") == 0
    assert len(list((tmp_path / "codes").iterdir())) == caches


@pytest.mark.parametrize("crop", ["centre", "random", "shift"])
def test_one_crop_of_each_image_is_the_centre_and_that_is_said(
    crop: str, images: Path, model: Path, tmp_path: Path, capsys: Any
) -> None:
    shutil.copytree(model / "tokenizer", tmp_path / "tokenizer")
    assert run("tokenizer", "encode", "--model", tmp_path, "--data", images, "--crop", crop) == 0
    said = f"crop {crop}: with one crop of each image, the prior sees the centre crop; --crops-per-image 8"
    assert (said in capsys.readouterr().err) == (crop != "centre")


@pytest.mark.parametrize("stage", ["tokenizer", "prior"])
def test_batch_size_auto_finds_the_micro_batch_and_changes_nothing_else(
    stage: str, images: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    own = TokenizerStage if stage == "tokenizer" else PriorStage
    small = SMALL_TOKENIZER if stage == "tokenizer" else SMALL_PRIOR
    original = own.step

    def step(self: Any, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        if len(batch["image" if stage == "tokenizer" else "codes"]) > 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return original(self, batch)

    monkeypatch.setattr(own, "step", step)
    for name in ("found", "given"):
        (tmp_path / name).mkdir()
        if stage == "prior":
            (tmp_path / name / "tokenizer").symlink_to(model / "tokenizer")
    command = [
        stage,
        "train",
        "--data",
        images,
        "--steps",
        "2",
        *small,
        "--preset",
        "tiny",
        "--workers",
        "0",
    ]
    monkeypatch.setattr("imgtf.pipelines.settings.preset_values", with_batch_of_12)
    assert run(*command, "--batch-size", "auto", "--model", tmp_path / "found") == 0
    assert "batch size auto: 12 images per step, in micro-batches of 3" in capsys.readouterr().err
    settings = tomllib.loads((tmp_path / "found" / stage / "train.toml").read_text())
    assert (settings["batch_size"], settings["gradient_accumulation_steps"]) == (12, 4)
    more = ["--batch-size", "12", "--gradient-accumulation-steps", "4"]
    assert run(*command, *more, "--model", tmp_path / "given") == 0
    assert_same(final_state(tmp_path / "found", stage), final_state(tmp_path / "given", stage))
    assert run(stage, "train", "--resume", "--steps", "3", "--model", tmp_path / "found") == 0
    assert "batch size auto" not in capsys.readouterr().err


def with_batch_of_12(stage: str, name: str) -> dict[str, Any]:
    return preset_values(stage, name) | {"batch_size": 12}


def test_a_folder_that_is_removed_during_a_run_is_not_made_again(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    original = Report.advance

    def advance(self: Report) -> None:
        original(self)
        shutil.rmtree(tmp_path / "m", ignore_errors=True)

    monkeypatch.setattr(Report, "advance", advance)
    command = ["tokenizer", "train", "--data", images, "--model", tmp_path / "m", "--steps", "6"]
    assert run(*command, *SMALL_TOKENIZER) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert "is gone: it was removed, or its disk is no longer there" in line
    assert not (tmp_path / "m").exists()
