"""Fine-tuning: a run that starts with another model's weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from imgtf.prior.model import Prior
from imgtf.tokenizer.model import Tokenizer

from .conftest import run

ONE_STEP = ["--steps", "1", "--batch-size", "8", "--ema-decay", "0"]


def held_out(folder: Path, stage: str) -> dict[str, float]:
    rows = [json.loads(line) for line in (folder / "training" / stage / "log.jsonl").read_text().splitlines()]
    return [row["held_out"] for row in rows if row.get("best")][-1]


def test_a_tokenizer_starts_where_the_other_ended(model: Path, images: Path, tmp_path: Path) -> None:
    command = ["tokenizer", "train", "--data", images, "--model", tmp_path / "m", "--init-from", model]
    # Nothing is learned at rate 0, and the codebook stands still.
    assert run(*command, *ONE_STEP, "--lr", "0", "--codebook-decay", "1", "--dead-code-threshold", "0") == 0
    assert held_out(tmp_path / "m", "tokenizer") == pytest.approx(held_out(model, "tokenizer"))
    ours, theirs = (Tokenizer.from_pretrained(folder / "tokenizer") for folder in (tmp_path / "m", model))
    assert (ours.config.width, ours.config.codebook_size) == (
        theirs.config.width,
        theirs.config.codebook_size,
    )


def test_a_prior_starts_where_the_other_ended(model: Path, images: Path, tmp_path: Path) -> None:
    shutil.copytree(model / "tokenizer", tmp_path / "m" / "tokenizer")
    command = ["prior", "train", "--data", images, "--model", tmp_path / "m", "--init-from", model]
    assert run(*command, *ONE_STEP, "--lr", "0") == 0
    assert held_out(tmp_path / "m", "prior") == pytest.approx(held_out(model, "prior"))


def test_new_classes_start_as_no_label(model: Path, images: Path, tmp_path: Path) -> None:
    shutil.copytree(model / "tokenizer", tmp_path / "m" / "tokenizer")
    shutil.copytree(images, tmp_path / "images")
    (tmp_path / "images" / "blue").rename(tmp_path / "images" / "teal")
    command = [
        "prior",
        "train",
        "--data",
        tmp_path / "images",
        "--model",
        tmp_path / "m",
        "--init-from",
        model,
    ]
    assert run(*command, *ONE_STEP, "--lr", "0") == 0
    ours, theirs = (Prior.from_pretrained(folder / "prior") for folder in (tmp_path / "m", model))
    assert ours.config.class_names == ("green", "red", "teal")
    assert ours.conditions.label is not None
    assert theirs.conditions.label is not None
    mine, other = ours.conditions.label.table.weight, theirs.conditions.label.table.weight
    assert torch.equal(mine, other[[1, 2, 3, 3]])


@pytest.mark.parametrize(
    ("extra", "message"),
    [(["--width", "16"], "do not fit"), (["--codebook-size", "32"], "do not fit")],
)
def test_sizes_that_do_not_fit_are_named(
    extra: list[str], message: str, model: Path, images: Path, tmp_path: Path, capsys: Any
) -> None:
    command = ["tokenizer", "train", "--data", images, "--model", tmp_path / "m", "--init-from", model]
    assert run(*command, *ONE_STEP, *extra) == 1
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "m").exists()


def test_a_prior_of_another_tokenizer_is_refused(
    model: Path, images: Path, tmp_path: Path, capsys: Any
) -> None:
    command = ["tokenizer", "train", "--data", images, "--model", tmp_path / "m", "--init-from", model]
    assert run(*command, *ONE_STEP) == 0
    command = ["prior", "train", "--data", images, "--model", tmp_path / "m", "--init-from", model]
    assert run(*command, *ONE_STEP) == 1
    assert "another tokenizer" in capsys.readouterr().err.splitlines()[-1]
