"""Fine-tuning: a run that starts with another model's weights."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from imgtf.prior.conditions.base import ConditionConfig
from imgtf.prior.conditions.features import FeaturesConfig
from imgtf.prior.conditions.image import ImageConfig
from imgtf.prior.conditions.label import LabelConfig
from imgtf.prior.conditions.text import TextConfig
from imgtf.prior.model import Prior
from imgtf.tokenizer.model import Tokenizer

from .conftest import run

LABELS = LabelConfig(class_names=("blue", "green", "red"))
ONE_STEP = ["--steps", "1", "--batch-size", "8", "--ema-decay", "0"]


def held_out(folder: Path, stage: str) -> dict[str, float]:
    rows = [json.loads(line) for line in (folder / "training" / stage / "log.jsonl").read_text().splitlines()]
    return [row["held_out"] for row in rows if row.get("best")][-1]


def continue_prior(images: Path, folder: Path, other: Path) -> list[Any]:
    """The command that trains the prior in `folder` from that of another model on."""
    return ["prior", "train", "--data", images, "--model", folder, "--init-from", other]


def test_a_new_prior_starts_from_the_codebook(model: Path, images: Path, tmp_path: Path) -> None:
    shutil.copytree(model / "tokenizer", tmp_path / "m" / "tokenizer")
    command = ["prior", "train", "--data", images, "--model", tmp_path / "m"]
    assert run(*command, *ONE_STEP, "--lr", "0", "--code-noise", "0") == 0
    vectors = Tokenizer.from_pretrained(model / "tokenizer").code_vectors()
    prior = Prior.from_pretrained(tmp_path / "m" / "prior")
    distances = [
        torch.pdist(one.detach()) for one in (vectors, prior.code_embedding.weight, prior.head.weight)
    ]
    assert torch.corrcoef(torch.stack(distances))[0].min() > 0.9
    assert run(*command, *ONE_STEP, "--lr", "0", "--code-noise", "0.1", "--force") == 0
    assert not Prior.from_pretrained(tmp_path / "m" / "prior").head.weight.any()


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
    command = continue_prior(images, tmp_path / "m", model)
    assert run(*command, *ONE_STEP, "--lr", "0") == 0
    assert held_out(tmp_path / "m", "prior") == pytest.approx(held_out(model, "prior"))


def test_a_resumed_run_keeps_settings_that_only_the_initial_model_has(
    model: Path, images: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other" / "prior"
    shutil.copytree(model / "prior", other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"zero_condition": True}))  # LlamaGen's; no option
    shutil.copytree(model / "tokenizer", tmp_path / "m" / "tokenizer")
    command = continue_prior(images, tmp_path / "m", other.parent)
    assert run(*command, *ONE_STEP) == 0
    shutil.rmtree(other.parent)
    assert run("prior", "train", "--model", tmp_path / "m", "--resume", "--steps", "2") == 0
    assert Prior.from_pretrained(tmp_path / "m" / "prior").config.zero_condition


def test_new_classes_start_as_no_label(model: Path, images: Path, tmp_path: Path) -> None:
    shutil.copytree(model / "tokenizer", tmp_path / "m" / "tokenizer")
    shutil.copytree(images, tmp_path / "images")
    (tmp_path / "images" / "blue").rename(tmp_path / "images" / "teal")
    command = continue_prior(tmp_path / "images", tmp_path / "m", model)
    assert run(*command, *ONE_STEP, "--lr", "0") == 0
    ours, theirs = (Prior.from_pretrained(folder / "prior") for folder in (tmp_path / "m", model))
    assert ours.config.class_names == ("green", "red", "teal")
    mine, other = (prior.conditions.embeddings["label"].table.weight for prior in (ours, theirs))
    assert torch.equal(mine, other[[1, 2, 3, 3]])


@pytest.mark.parametrize(
    ("conditions", "extra", "message"),
    [
        ((LABELS, ImageConfig(grid=(8, 8), codebook_size=16)), [], "has conditions 3 classes, image"),
        ((LABELS, FeaturesConfig(width=16, tokens=9)), [], "has conditions 3 classes, features"),
        ((FeaturesConfig(width=16, prefix=True),), [], "has conditions features"),
        ((LABELS, TextConfig(max_bytes=12)), [], "has conditions 3 classes, text"),
        ((LABELS,), ["--conditioning-size", "8"], "this run has 3 classes, image"),
        (
            (LABELS, ImageConfig(grid=(8, 8), codebook_size=16, tokenizer_sha256="of another")),
            ["--conditioning-size", "8"],
            "conditioning images encoded by another tokenizer",
        ),
    ],
)
def test_conditions_other_than_those_of_the_run_are_refused(
    conditions: tuple[ConditionConfig, ...],
    extra: list[str],
    message: str,
    model: Path,
    images: Path,
    tmp_path: Path,
    capsys: Any,
) -> None:
    for folder in ("m", "other"):
        shutil.copytree(model / "tokenizer", tmp_path / folder / "tokenizer")
    config = Prior.read_config(model / "prior")
    Prior(replace(config, conditions=conditions)).save_pretrained(tmp_path / "other" / "prior")
    command = continue_prior(images, tmp_path / "m", tmp_path / "other")
    assert run(*command, *ONE_STEP, *extra) == 1
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "m" / "prior").exists()


def test_a_prior_with_conditioning_images_is_continued_with_them(
    model: Path, images: Path, tmp_path: Path
) -> None:
    """Of the same kind, but another size: super-resolution by another factor."""
    for folder in ("m", "other"):
        shutil.copytree(model / "tokenizer", tmp_path / folder / "tokenizer")
    config = Prior.read_config(model / "prior")
    sha = config.tokenizer_sha256
    image = ImageConfig(grid=(8, 8), codebook_size=16, tokenizer_sha256=sha, reduced_size=8)
    Prior(replace(config, conditions=(LABELS, image))).save_pretrained(tmp_path / "other" / "prior")
    command = continue_prior(images, tmp_path / "m", tmp_path / "other")
    assert run(*command, *ONE_STEP, "--conditioning-size", "4", "--lr", "0") == 0
    ours, theirs = (Prior.from_pretrained(tmp_path / folder / "prior") for folder in ("m", "other"))
    assert ours.config.condition("image").reduced_size == 4
    assert ours.weights_sha256() == theirs.weights_sha256()


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
    command = continue_prior(images, tmp_path / "m", model)
    assert run(*command, *ONE_STEP) == 1
    assert "another tokenizer" in capsys.readouterr().err.splitlines()[-1]
