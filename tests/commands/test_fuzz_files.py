"""Odd folders, damaged tables and compressed files: what is there, or one line, and no half result."""

from __future__ import annotations

import os
import random
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from imgtf.benchmarks import fuzz_files, fuzz_images
from imgtf.errors import DataError

from ..pipelines.conftest import run


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow about metadata, outside of commands
        yield


@pytest.mark.parametrize(
    ("kind", "cases"), [("compressed", 40), ("parquet", 12), ("folder", 8), ("command", 8)]
)
def test_an_odd_input_is_read_right_or_refused(tmp_path: Path, kind: str, cases: int) -> None:
    for seed in range(cases):
        outcome, note = fuzz_files.KINDS[kind](random.Random(seed), tmp_path)
        assert outcome in ("correct", "error"), f"{seed}: {note}"


def test_a_number_that_does_not_end_is_damage() -> None:
    data, _ = fuzz_files.compressed(0)
    with pytest.raises(DataError, match="x: the file is damaged or truncated"):
        fuzz_files.decompress_codes(fuzz_files.models(), data[:14] + b"\xff" * 20, where="x")


@pytest.mark.skipif(sys.platform == "win32", reason="no named pipes")
def test_a_pipe_is_refused_at_once(tmp_path: Path, capsys: Any) -> None:
    pipe, model = tmp_path / "x.imgtf", fuzz_files.model_folder(tmp_path)
    os.mkfifo(pipe)
    for command in (
        ("decompress", pipe, "-o", tmp_path / "a.png"),
        ("tokenizer", "reconstruct", pipe, "--out", tmp_path / "a.png"),
        ("score", pipe, "--out", tmp_path / "s"),
    ):
        assert run(*command, "--model", model) == 1
        assert capsys.readouterr().err.splitlines()[-1].startswith(f"Error: {pipe}: a pipe or a device")


def test_metadata_of_junk_is_not_worth_a_line(tmp_path: Path, capsys: Any) -> None:
    image = tmp_path / "a.jpg"
    image.write_bytes(fuzz_images.original("jpg", "RGB", 1))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert run("score", image, "--out", tmp_path / "s", "--model", fuzz_files.model_folder(tmp_path)) == 0
    assert not [one for one in seen if "PIL" in one.filename]
