"""What a command leaves behind: files in the model folder and the output folder only, and no connection anywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .pipelines.conftest import SMALL_PRIOR, SMALL_TOKENIZER, draw_images

COMMANDS = """
import json, sys
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        print(f"connection: {event} {arguments[1:]}", file=sys.stderr)
sys.addaudithook(watch)
from imgtf.cli import main
for command in json.loads(sys.argv[1]):
    try:
        main(command)
    except SystemExit as stopped:
        if stopped.code:
            raise
"""
"""Runs a list of commands, and names every connection on stderr."""


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder in which the commands ran, and their output. Home and current folder are new and empty."""
    root = tmp_path_factory.mktemp("footprint")
    for name in ("home", "here", "temporary"):
        (root / name).mkdir()
    draw_images(root / "images")
    model = ["--model", "../m"]
    train = ["--data", str(root / "images"), "--steps", "4", *SMALL_TOKENIZER]
    runs = [
        ["data", str(root / "images")],
        ["tokenizer", "train", *model, *train],
        ["prior", "train", *model, "--steps", "4", *SMALL_PRIOR],
        ["sample", *model, "--n", "2", "--out", "../out"],
        ["score", *model, str(root / "images"), "--json"],
        ["info", "../m"],
    ]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "XDG_", "TORCH_HOME"))}
    environment |= {"HOME": str(root / "home"), "TMPDIR": str(root / "temporary"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps(runs)],
        cwd=root / "here", env=environment, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return root, done.stderr


def test_only_the_model_and_the_output_are_written(commands: tuple[Path, str]) -> None:
    root, _ = commands
    before = {"images", "home", "here", "temporary", "m", "out"}
    assert {path.name for path in root.iterdir()} == before
    left = [
        path for name in ("home", "here", "temporary") for path in (root / name).rglob("*") if path.is_file()
    ]
    assert left == []
    assert {path.suffix for path in (root / "images").rglob("*") if path.is_file()} == {".png"}


def test_nothing_connects_anywhere(commands: tuple[Path, str]) -> None:
    _, output = commands
    assert [line for line in output.splitlines() if line.startswith("connection:")] == []
