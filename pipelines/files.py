"""Names of result files, and checks before they are written. No heavy imports."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable
from pathlib import Path

from ..errors import ConfigError

RUN_FILE = "train.toml"
"""The resolved settings of a run, next to the weights it made."""
DECODER_FILE = "decoder.toml"
"""Next to the tokenizer's weights: the resolved settings of the run that tuned its decoder."""
RUNS = ("tokenizer", "decoder", "prior")
"""Training runs of a model folder."""
DATA_FILE = "data.txt"
"""Next to trained weights: what the images of the run are, in a few lines."""
REPORT_FILE = "report.html"
"""In the model folder: what its runs were and did."""
ORIGIN_FILE = "origin.txt"
"""Next to imported weights: where they come from, in one line."""


def stage_of(run: str) -> str:
    """Return the stage whose weights a run trains, which is the name of their folder."""
    return "tokenizer" if run == "decoder" else run


def run_file(folder: Path, run: str) -> Path:
    """Return the file with the settings of a run in a model folder."""
    return folder / stage_of(run) / (DECODER_FILE if run == "decoder" else RUN_FILE)


def run_command(run: str) -> str:
    """Return the command that starts a run, without `imgtf`."""
    return "tokenizer tune-decoder" if run == "decoder" else f"{run} train"


def reconstruction_files(images: Iterable[Path], out: Path) -> list[Path]:
    """Return the file of each image's reconstruction: `out/NAME.png`, or `out/NAME-2.png` where that is taken."""
    names: list[str] = []
    for image in images:
        candidates = (f"{image.stem}-{i}" if i > 1 else image.stem for i in itertools.count(1))
        names.append(next(name for name in candidates if name not in names))
    return [out / f"{name}.png" for name in names]


def check_files(files: Iterable[Path], force: bool) -> None:
    """Raise a ConfigError for files that would be overwritten, unless `force` is given, or that cannot be written."""
    for file in files:
        if file.exists() and not force:
            raise ConfigError(f"{file} exists: name another file or folder, or replace it with --force")
        check_writable(file.parent)


def check_writable(folder: Path) -> None:
    """Raise a ConfigError where a folder cannot be created or written, before the work starts. Nothing is created."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise ConfigError(f"{folder} cannot be written: {existing} is a file; name another folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(
            f"{folder} cannot be written: no permission, or a read-only disk; name another folder"
        )
