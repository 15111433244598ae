"""What the page shows of a run in progress: its log, as series to plot, and its last preview."""

from __future__ import annotations

import json
import math
import os
import threading
import time
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..training.report import LOG_FILE

STAGES = ("tokenizer", "prior")
PLOTS = {
    "loss": "Loss",
    "psnr": "PSNR in dB",
    "lpips": "LPIPS",
    "bits_per_token": "Bits per token",
    "usage": "Share of the codes in use",
    "perplexity": "Codebook perplexity",
    "gradient_norm": "Gradient norm",
    "lr": "Learning rate",
}
"""Metrics that are plotted, where the log has them, and their titles."""
MOST_POINTS = 400
"""Points of a series on the page; longer ones are thinned out."""
RECENT = 300.0
"""Seconds after the last line of a log in which a run that has steps left counts as running."""

Row = dict[str, Any]
Point = tuple[int, float, str]
"""Step, value, and `training` or `held-out`."""


def log_of(folder: Path, stage: str) -> Path:
    """Return the log of a stage's last run in a model folder."""
    return folder / "training" / stage / LOG_FILE


@dataclass
class RunLog:
    """The log of one stage, read line by line as it grows; several threads may read it."""

    folder: Path
    stage: str
    rows: list[Row] = field(default_factory=list)
    version: tuple[int, int] = (0, 0)
    """Inode and bytes that were read. A resumed run puts a shorter file in the place of its log."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self) -> list[Row]:
        """Return all rows so far; none without a log."""
        path = log_of(self.folder, self.stage)
        with self.lock:
            try:
                with path.open("rb") as file:
                    self._read_new(file)
            except OSError:
                self.rows, self.version = [], (0, 0)
            return list(self.rows)

    def _read_new(self, file: Any) -> None:
        """Add the whole lines after those that were read."""

        status = os.fstat(file.fileno())
        inode, offset = self.version
        if status.st_ino != inode or status.st_size < offset:
            self.rows, offset = [], 0
        file.seek(offset)
        whole = file.read().rpartition(b"\n")[0]
        self.rows += [row for line in whole.splitlines() if (row := _row(line))]
        self.version = (status.st_ino, offset + len(whole) + bool(whole))

    @property
    def steps(self) -> int | None:
        """Steps of the run, from its settings; None where they are not known."""
        try:
            settings = tomllib.loads((self.folder / self.stage / "train.toml").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        steps = settings.get("steps")
        return steps if isinstance(steps, int) else None

    @property
    def age(self) -> float:
        """Seconds since the last line."""
        try:
            return max(0.0, time.time() - log_of(self.folder, self.stage).stat().st_mtime)
        except OSError:
            return math.inf

    def preview(self) -> Path | None:
        """Return the newest preview image."""
        previews = log_of(self.folder, self.stage).parent / "previews"
        return max(previews.glob("*.png"), default=None, key=lambda path: path.name)


def points(rows: list[Row], metric: str) -> list[Point]:
    """Return a metric over the steps, in training and on held-out images, without values that are not finite."""
    training = [(row["step"], row[metric], "training") for row in rows if _is_finite(row.get(metric))]
    held_out = [
        (row["step"], row["held_out"][metric], "held-out")
        for row in rows
        if _is_finite(row.get("held_out", {}).get(metric))
    ]
    return _thinned(training) + _thinned(held_out)


def status(rows: list[Row], steps: int | None, age: float) -> str:
    """Return how far a run is, in one line."""
    if not rows:
        return "no run yet"
    last = rows[-1]["step"]
    of = f" of {steps:,}" if steps else ""
    going = "running" if age < RECENT else "stopped, or waiting"
    state = "finished" if steps and last >= steps else going
    speeds = [row["images_per_second"] for row in rows if "images_per_second" in row]
    speed = f" · {speeds[-1]:,.0f} images/s" if speeds and state == "running" else ""
    return f"{state} · step {last:,}{of}{speed}{_last_figures(rows)} · last line {_ago(age)}"


def _last_figures(rows: list[Row]) -> str:
    held_out = [row["held_out"] for row in rows if row.get("held_out")]
    shown = [f"{name} {held_out[-1][name]:.4g}" for name in PLOTS if held_out and name in held_out[-1]]
    return f" · held out: {', '.join(shown[:4])}" if shown else ""


def _ago(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def _row(line: bytes) -> Row | None:
    """Return a line of a log; None for one that is damaged."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _thinned(series: list[Point]) -> list[Point]:
    """Return at most `MOST_POINTS` points, the last one among them."""
    every = -(-len(series) // MOST_POINTS)
    return series[::-1][::every][::-1] if every > 1 else series
