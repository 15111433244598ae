"""`imgtf sample --text-file`: an image or more a line, named after the lines; wrong files are one line."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from imgtf import Pipeline, Prior, Tokenizer
from imgtf.prior.conditions.text import TextConfig
from imgtf.prior.config import PriorConfig
from imgtf.tokenizer.config import TokenizerConfig

from ..pipelines.conftest import run


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with random models, conditioned on captions."""
    torch.manual_seed(0)
    small = {"width": 8, "multipliers": (1,), "latent_width": 8, "norm_groups": 4, "codebook_dim": 4}
    tokenizer = Tokenizer(TokenizerConfig(image_size=4, codebook_size=8, **small))
    config = PriorConfig(
        grid=(4, 4), codebook_size=8, width=16, depth=1, heads=2, conditions=(TextConfig(max_bytes=8),)
    )
    prior = Prior(config)
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    folder = tmp_path_factory.mktemp("captioned") / "m"
    Pipeline(tokenizer, prior).save_pretrained(folder)
    return folder


def record(out: Path) -> list[tuple[str, int, str]]:
    rows = json.loads((out / "samples.json").read_text())["images"]
    return [(row["file"], row["index"], row["text"]) for row in rows]


def test_each_line_gives_an_image_with_its_name(captioned: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "captions.txt").write_text("A cat\n\nein Kätzchen\nA cat\n", encoding="utf-8")
    command = ["sample", "--model", captioned, "--text-file", tmp_path / "captions.txt", "--json"]
    assert run(*command, "--out", tmp_path / "out") == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["n"] == 3
    assert "captions.txt: empty lines are skipped: 2" in printed.err
    assert record(tmp_path / "out") == [
        ("a-cat.png", 0, "A cat"), ("ein-kätzchen.png", 1, "ein Kätzchen"), ("a-cat-2.png", 2, "A cat"),
    ]  # fmt: skip
    assert len(list((tmp_path / "out").glob("*.png"))) == 4  # with the grid


def test_several_images_a_line_and_any_first_number(captioned: Path, tmp_path: Path) -> None:
    (tmp_path / "captions.txt").write_text("a\nb\n")
    command = ["sample", "--model", captioned, "--text-file", tmp_path / "captions.txt", "-n", "2"]
    assert run(*command, "--first", "3", "--out", tmp_path / "out") == 0
    assert record(tmp_path / "out") == [
        ("a_1.png", 3, "a"), ("a_2.png", 4, "a"), ("b_1.png", 5, "b"), ("b_2.png", 6, "b"),
    ]  # fmt: skip
    again = [
        "sample",
        "--model",
        captioned,
        "--text",
        "b",
        "-n",
        "1",
        "--first",
        "6",
        "--out",
        tmp_path / "again",
    ]
    assert run(*again) == 0
    assert (tmp_path / "again" / "000006.png").read_bytes() == (tmp_path / "out" / "b_2.png").read_bytes()


def test_lines_come_from_stdin(captioned: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("ä\n".encode()), encoding="utf-8"))
    assert run("sample", "--model", captioned, "--text-file", "-", "--out", tmp_path / "out") == 0
    assert record(tmp_path / "out") == [("ä.png", 0, "ä")]


def test_the_dry_run_counts_the_lines(captioned: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "captions.txt").write_text("a\nb\nc\n")
    command = [
        "sample",
        "--model",
        captioned,
        "--text-file",
        tmp_path / "captions.txt",
        "--dry-run",
        "--json",
    ]
    assert run(*command, "-n", "4") == 0
    assert 12 in json.loads(capsys.readouterr().out).values()


def test_wrong_text_files_are_one_line_and_nothing_is_written(
    captioned: Path, model: Path, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    good, empty, latin = (tmp_path / name for name in ("good.txt", "empty.txt", "latin.txt"))
    good.write_text("a\n")
    empty.write_text("\n\n")
    latin.write_bytes("ä\n".encode("latin-1"))
    out = tmp_path / "out"
    cases: list[tuple[Path, list[Any], int, str]] = [
        (captioned, ["--text-file", empty], 1, "no captions"),
        (captioned, ["--text-file", latin], 1, "line 1 is not UTF-8"),
        (captioned, ["--text-file", tmp_path / "none.txt"], 1, "none.txt: No such file"),
        (captioned, ["--text-file", tmp_path], 2, "is a directory"),
        (captioned, ["--text-file", good, "--text", "b"], 2, "--text and --text-file exclude each other"),
        (model, ["--text-file", good], 1, "conditioned on label, not on text"),
    ]
    for folder, arguments, code, message in cases:
        capsys.readouterr()
        assert run("sample", "--model", folder, *arguments, "--out", out) == code, arguments
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error")]
        assert message in line
        assert not out.exists()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run("sample", "--model", captioned, "--text-file", "-", "--out", out) == 2
    assert "works with one process" in capsys.readouterr().err
