"""What a run is, besides its settings and its log: `run.json` next to the log."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..pretrained import read_json, write_text
from .files import run_command
from .local_paths import public_settings

RECORD_FILE = "run.json"
RUNNING, FINISHED, STOPPED, FAILED = "running", "finished", "stopped", "failed"


@dataclass(frozen=True)
class RunRecord:
    """A run of one stage."""

    status: str
    """running, finished, stopped (by a signal; it can be resumed) or failed."""
    started: str
    """Date and time."""
    steps: int
    """That it is meant to have."""
    parameters: int
    images: int
    """For training; a prior counts crops and flips of an image once."""
    held_out: int
    """Held-out images of one evaluation."""
    precision: str
    processes: int
    machine: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    given: Mapping[str, Any] = field(default_factory=dict)
    """Settings that the user gave, without paths."""
    updated: str = ""

    def save(self, folder: Path, status: str = "") -> RunRecord:
        """Write the file into `training/STAGE`, with the present time and a new status; return the record."""
        record = replace(self, status=status or self.status, updated=now())
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / RECORD_FILE, json.dumps(asdict(record), indent=2) + "\n")
        return record


def read_record(folder: Path) -> RunRecord | None:
    """Return the record in `training/STAGE`, or None where there is none.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = folder / RECORD_FILE
    if not path.exists():
        return None
    try:
        return RunRecord(**read_json(path))
    except TypeError as error:
        raise CheckpointError(f"{path}: {error}; delete the file") from error


def given_settings(values: Mapping[str, Any], explicit: frozenset[str]) -> dict[str, Any]:
    """Return the settings that the user gave, without paths of this machine."""
    given = {name: list(v) if isinstance(v, tuple) else v for name, v in values.items() if name in explicit}
    return public_settings(given)


def command_line(run: str, given: Mapping[str, Any]) -> str:
    """Return the command that gives these settings."""
    words = ["imgtf", *run_command(run).split()]
    for name, value in given.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        elif value is not None:
            between = "x" if name == "image_size" else ","
            text = between.join(map(str, value)) if isinstance(value, list) else str(value)
            words += [f"--{option}", text]
    return shlex.join(words)


def now() -> str:
    """Return the date and time as a person writes it."""
    return time.strftime("%Y-%m-%d %H:%M:%S %Z")
