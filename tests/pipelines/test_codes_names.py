"""Priors and token caches belong to the codes of a tokenizer, not to its decoder; files with older names still work."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from imgtf import Pipeline, Prior, Tokenizer
from imgtf.errors import CheckpointError

from .conftest import SMALL_PRIOR, run

MORE = ["--resume", "--steps", "9"]
"""Continue the run of `model`, which has 8 steps."""


@pytest.fixture
def folder(model: Path, tmp_path: Path) -> Path:
    """A copy of a model folder."""
    return Path(shutil.copytree(model, tmp_path / "m"))


def change(folder: Path, edit: Callable[[Tokenizer], None]) -> None:
    """Change the weights of the tokenizer in a model folder."""
    tokenizer = Tokenizer.from_pretrained(folder / "tokenizer", "cpu")
    with torch.no_grad():
        edit(tokenizer)
    tokenizer.save_pretrained(folder / "tokenizer")


def change_decoder(tokenizer: Tokenizer) -> None:
    tokenizer.decoder.conv_out.bias += 0.1  # type: ignore[operator]
    tokenizer.from_codebook.bias += 0.1  # type: ignore[operator]


def change_encoder(tokenizer: Tokenizer) -> None:
    tokenizer.to_codebook.bias += 0.1  # type: ignore[operator]


def change_code(tokenizer: Tokenizer) -> None:
    tokenizer.quantizer.vq._codebook.embed[0, 3] *= 1.1


def name_by_all_weights(folder: Path, tokenizer: Path | None = None) -> None:
    """Let every file refer to the tokenizers of a folder by the SHA-256 of all weights, as imgtf did before."""
    parts = [tokenizer or folder / "tokenizer", *folder.glob("conditioning")]
    models = [Tokenizer.from_pretrained(part, "cpu") for part in parts]
    for file in (
        *folder.glob("prior/config.json"),
        *folder.rglob("cache.json"),
        *folder.rglob("progress.json"),
    ):
        text = file.read_text()
        for model in models:
            text = text.replace(model.codes_sha256(), model.weights_sha256())
        file.write_text(text)


def caches(folder: Path) -> dict[str, int]:
    return {str(file): file.stat().st_mtime_ns for file in folder.glob("codes/*/cache.json")}


def test_a_decoder_that_changed_leaves_prior_and_caches_valid(folder: Path, capsys: Any) -> None:
    change(folder, change_decoder)
    Pipeline.from_pretrained(folder)
    before = caches(folder)
    assert before
    assert run("prior", "train", "--model", folder, *MORE) == 0
    assert caches(folder) == before
    assert "encoding" not in capsys.readouterr().err


@pytest.mark.parametrize("edit", [change_encoder, change_code])
def test_other_codes_are_refused(edit: Callable[[Tokenizer], None], folder: Path, capsys: Any) -> None:
    change(folder, edit)
    with pytest.raises(CheckpointError, match="trained on the codes of another tokenizer"):
        Pipeline.from_pretrained(folder)
    assert run("prior", "train", "--model", folder, *MORE) == 1
    lines = capsys.readouterr().err.splitlines()
    assert "another tokenizer" in lines[-1]
    assert any(line.startswith("encoding ") for line in lines)


def test_a_folder_that_names_all_weights_still_works(folder: Path, capsys: Any) -> None:
    name_by_all_weights(folder)
    whole = Tokenizer.from_pretrained(folder / "tokenizer", "cpu").weights_sha256()
    assert Prior.read_config(folder / "prior").tokenizer_sha256 == whole
    Pipeline.from_pretrained(folder)
    before = caches(folder)
    assert run("prior", "eval", "--model", folder) == 0
    assert run("prior", "train", "--model", folder, *MORE) == 0
    assert caches(folder) == before
    assert "encoding" not in capsys.readouterr().err
    assert Prior.read_config(folder / "prior").tokenizer_sha256 != whole


def test_all_weights_must_match_where_they_are_named(folder: Path) -> None:
    name_by_all_weights(folder)
    change(folder, change_decoder)
    with pytest.raises(CheckpointError, match="trained on the codes of another tokenizer"):
        Pipeline.from_pretrained(folder)


def test_conditioning_images_of_an_older_folder(
    model: Path, images: Path, tmp_path: Path, capsys: Any
) -> None:
    folder, other = tmp_path / "m", tmp_path / "other"
    for one in (folder, other):
        shutil.copytree(model / "tokenizer", one / "tokenizer")
    change(other, change_code)
    small = [*SMALL_PRIOR, "--steps", "8", "--conditioning-size", "8", "--conditioning-model", str(other)]
    assert run("prior", "train", "--model", folder, *small) == 0
    name_by_all_weights(folder)
    before, names = caches(folder), json.dumps([p.name for p in folder.glob("codes/*")])
    capsys.readouterr()
    assert run("prior", "train", "--model", folder, *MORE) == 0
    assert (caches(folder), json.dumps([p.name for p in folder.glob("codes/*")])) == (before, names)
    assert "encoding" not in capsys.readouterr().err
    again = ["--init-from", folder, "--model", tmp_path / "again", *small]
    shutil.copytree(model / "tokenizer", tmp_path / "again" / "tokenizer")
    name_by_all_weights(folder)
    assert run("prior", "train", *again) == 0
