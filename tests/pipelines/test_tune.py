"""Tuning a decoder through the command line and Python: what changes, what stays, and that resuming is exact."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import tomllib
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from imgtf import Pipeline, Prior, Tokenizer, tune_decoder
from imgtf.data.config import DataConfig
from imgtf.data.images import ImageDataset
from imgtf.data.loader import eval_batches
from imgtf.data.source import open_source
from imgtf.errors import CheckpointError, ConfigError
from imgtf.pipelines.files import run_file
from imgtf.pipelines.prior_codes import PriorCodes
from imgtf.prior.conditions.image import ImageConfig
from imgtf.prior.conditions.label import LabelConfig
from imgtf.tokenizer.tune import _seeded_rand
from imgtf.training.report import Report
from imgtf.training.states import latest_state

from .conftest import run
from .test_codes_names import change, change_encoder, name_by_all_weights

DECODER = ("from_codebook.", "decoder.")
OFTEN = ["--eval-every", "4", "--log-every", "2", "--save-every", "100", "--preview-every", "4"]


@pytest.fixture
def folder(model: Path, tmp_path: Path) -> Path:
    """A copy of a model folder."""
    return Path(shutil.copytree(model, tmp_path / "m"))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "tokenizer" / "model.safetensors")


def final_state(folder: Path) -> dict[str, torch.Tensor]:
    state = latest_state(folder / "training" / "decoder" / "state")
    assert state is not None
    names = ("model", "ema", "optimizer", "random-0")
    tensors = {f"{n}.{k}": v for n in names for k, v in load_file(state / f"{n}.safetensors").items()}
    return tensors | {f"kept.{k}": v for k, v in weights(folder).items()}


def test_only_the_decoder_changes_and_the_folder_stays_valid(folder: Path, capsys: Any) -> None:
    name_by_all_weights(folder)  # of a prior that was trained before `codes_sha256`
    before, tokenizer = weights(folder), Tokenizer.from_pretrained(folder / "tokenizer", "cpu")
    caches = {path: path.stat().st_mtime_ns for path in folder.glob("codes/*/cache.json")}
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert (
        run(
            "tokenizer", "tune-decoder", "--model", folder, "--steps", "20", "--lr", "0.003", *OFTEN, "--json"
        )
        == 0
    )
    shown = capsys.readouterr()
    assert json.loads(shown.out)["best_step"] > 0
    assert "encoder and codebook are frozen" in shown.err
    after, tuned = weights(folder), Tokenizer.from_pretrained(folder / "tokenizer", "cpu")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.startswith(DECODER)}
    assert torch.equal(tuned.encode(images), tokenizer.encode(images))
    rows = [json.loads(row) for row in (folder / "training/decoder/log.jsonl").read_text().splitlines()]
    assert (rows[0]["step"], rows[0]["best"]) == (0, True)
    held_out = [row["held_out"] for row in rows if "held_out" in row]
    assert held_out[-1]["l2"] < held_out[0]["l2"]
    assert {"noisy_loss", "noisy_psnr", "psnr", "usage"} <= held_out[0].keys()
    kept = load_file(folder / "training/decoder/before.safetensors")
    assert all(torch.equal(before[name], kept[name]) for name in before)
    Pipeline.from_pretrained(folder)
    assert run("prior", "eval", "--model", folder) == 0
    assert run("prior", "train", "--model", folder, "--resume", "--steps", "9") == 0
    assert "encoding" not in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in folder.glob("codes/*/cache.json")} == caches
    card, report = (folder / "README.md").read_text(), (folder / "report.html").read_text()
    assert "imgtf tokenizer tune-decoder --config tokenizer/decoder.toml" in card
    assert "(decoder)" in card
    assert 'id="decoder"' in report
    assert tomllib.loads((folder / "tokenizer/train.toml").read_text())["steps"] == 8
    settings = tomllib.loads(run_file(folder, "decoder").read_text())
    assert (settings["steps"], settings["code_noise"], settings["batch_size"]) == (20, 0.1, 8)
    assert run("tokenizer", "tune-decoder", "--model", folder, "--steps", "4", *OFTEN) == 1
    assert "already holds a decoder run" in capsys.readouterr().err
    assert run("tokenizer", "tune-decoder", "--model", folder, "--steps", "4", *OFTEN, "--force") == 0
    Pipeline.from_pretrained(folder)


def test_saved_settings_repeat_the_run_until_the_tokenizer_is_trained_on(
    model: Path, tmp_path: Path, capsys: Any
) -> None:
    first, again = (Path(shutil.copytree(model, tmp_path / name)) for name in ("first", "again"))
    command = ["tokenizer", "tune-decoder", "--model"]
    assert run(*command, first, "--steps", "6", "--lr", "0.003", *OFTEN) == 0
    assert run(*command, again, "--config", run_file(first, "decoder")) == 0
    a, b = weights(first), weights(again)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert run_file(first, "decoder").read_text() == run_file(again, "decoder").read_text()
    assert run("tokenizer", "train", "--model", again, "--resume", "--steps", "9") == 0
    assert "decoder.toml: the decoder of tune-decoder is removed" in capsys.readouterr().err
    assert not run_file(again, "decoder").exists()
    assert not (again / "training/decoder").exists()


def test_weights_that_are_not_better_are_not_kept(folder: Path, capsys: Any) -> None:
    before, figures = weights(folder), (folder / "tokenizer/figures.json").read_text()
    command = [
        "tokenizer",
        "tune-decoder",
        "--model",
        folder,
        "--steps",
        "4",
        "--lr",
        "0.5",
        "--warmup",
        "0",
        *OFTEN,
    ]
    assert run(*command) == 0
    shown = capsys.readouterr()
    assert "best at step 0 of 4" in shown.out
    assert "no weights were better on held-out images than those at the start" in shown.err
    after = weights(folder)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert (folder / "tokenizer/figures.json").read_text() == figures


@pytest.mark.parametrize(
    "more", [[], ["--discriminator-weight", "0.5", "--discriminator-start", "2", "--discriminator-ramp", "2"]]
)
def test_interrupted_and_resumed_equals_uninterrupted(
    more: list[str], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    for name in ("whole", "halved"):
        shutil.copytree(model, tmp_path / name)
    command = [
        "tokenizer",
        "tune-decoder",
        "--steps",
        "9",
        "--discriminator-width",
        "8",
        *more,
        *OFTEN,
        "--model",
    ]
    assert run(*command, tmp_path / "whole") == 0
    with monkeypatch.context() as patch:
        original, done = Report.advance, [0]

        def advance(self: Report) -> None:
            original(self)
            done[0] += 1
            if done[0] == 5:
                os.kill(os.getpid(), signal.SIGINT)

        patch.setattr(Report, "advance", advance)
        assert run(*command, tmp_path / "halved") == 130
    resume = shlex.split(capsys.readouterr().err.splitlines()[-1].split("resume with: ")[1])
    assert resume[:3] == ["imgtf", "tokenizer", "tune-decoder"]
    assert run(*resume[1:]) == 0
    whole, halved = final_state(tmp_path / "whole"), final_state(tmp_path / "halved")
    assert whole.keys() == halved.keys()
    assert [name for name in whole if not torch.equal(whole[name], halved[name])] == []


def test_what_cannot_work_is_one_clear_line(folder: Path, tmp_path: Path, capsys: Any) -> None:
    assert run("tokenizer", "tune-decoder", "--model", tmp_path / "empty") == 1
    assert "holds no tokenizer: train one first" in capsys.readouterr().err.splitlines()[-1]
    assert run("tokenizer", "tune-decoder", "--model", folder, "--resume") == 1
    assert "no decoder run to resume" in capsys.readouterr().err.splitlines()[-1]
    assert run("tokenizer", "tune-decoder", "--model", folder, "--code-noise", "2") == 2
    assert run("tokenizer", "tune-decoder", "--model", folder, "--init-from", "x") == 2
    assert run("tokenizer", "tune-decoder", "--model", folder, "--batch-size", "500") == 1
    assert "fewer than a batch of 500" in capsys.readouterr().err.splitlines()[-1]
    with pytest.raises(ConfigError, match="tune_decoder"):
        tune_decoder(folder, init_from="x")


def test_from_python_and_only_with_the_same_encoder(folder: Path) -> None:
    settings: dict[str, Any] = {"steps": 2, "code_noise": 0.0, "eval_every": 2, "device": "cpu"}
    result = tune_decoder(folder, **settings)
    assert result.steps == 2
    assert "noisy_loss" not in result.metrics
    change(folder, change_encoder)
    with pytest.raises(CheckpointError, match="the decoder of another tokenizer"):
        tune_decoder(folder, resume=True, steps=4)


def test_codes_of_the_prior_replace_others(model: Path, images: Path, tmp_path: Path, capsys: Any) -> None:
    tokenizer, prior = (cls.from_pretrained(model, "cpu") for cls in (Tokenizer, Prior))
    train = open_source(DataConfig(data=str(images)))[0]
    shown = ImageDataset(train, tokenizer.config.size, 3, DataConfig())
    batch = next(eval_batches(shown, 24))
    rand = partial(_seeded_rand, torch.Generator().manual_seed(0))
    codes = tokenizer.encode(batch["image"])
    drawn = PriorCodes.open(model, tokenizer, train)(codes, batch, rand)
    assert (drawn.shape, drawn.dtype) == (codes.shape, codes.dtype)
    # More likely under the prior than any code.
    log_p = prior(codes.flatten(1), label=batch["label"]).log_softmax(-1)
    found, uniform = log_p.gather(-1, drawn.flatten(1)[..., None]).mean(), log_p.mean()
    assert found > uniform
    folder = Path(shutil.copytree(model, tmp_path / "m"))
    command = ["tokenizer", "tune-decoder", "--model", folder, "--codes-from-prior", "--steps", "4", *OFTEN]
    assert run(*command) == 0
    assert tomllib.loads(run_file(folder, "decoder").read_text())["codes_from_prior"] is True
    shutil.rmtree(folder / "prior")
    assert run(*command, "--force") == 1
    assert "holds no prior" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": "masked"}, "objective of the prior is masked"),
        ({"conditions": (LabelConfig(class_names=("a", "b")),)}, "classes of the prior"),
        ({"conditions": (ImageConfig(grid=(8, 8), codebook_size=16),)}, "conditioned on image"),
        ({"tokenizer_sha256": "0" * 64}, "another tokenizer"),
    ],
)
def test_a_prior_that_cannot_draw_codes_is_refused(
    changes: dict[str, Any], message: str, model: Path, images: Path, tmp_path: Path
) -> None:
    tokenizer, train = Tokenizer.from_pretrained(model, "cpu"), open_source(DataConfig(data=str(images)))[0]
    Prior(replace(Prior.read_config(model / "prior"), **changes)).save_pretrained(tmp_path / "prior")
    with pytest.raises((ConfigError, CheckpointError), match=message):
        PriorCodes.open(tmp_path, tokenizer, train)
