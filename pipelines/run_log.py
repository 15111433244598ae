"""The log of a run: its metrics as series over the steps, and what happened when."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Series = tuple[list[int], list[float]]
"""Steps and values."""


@dataclass(frozen=True)
class Panel:
    """One diagram of one or more metrics."""

    title: str
    unit: str
    keys: tuple[str, ...]
    """Names of the metrics in the log."""
    held_out: bool = True
    """One metric in training and on held-out images; else several training metrics together."""
    log_scale: bool = False


PANELS = (
    Panel("Loss (weighted sum)", "loss", ("loss",)),
    Panel("Reconstruction", "PSNR in dB", ("psnr",)),
    Panel("Perceptual distance", "LPIPS", ("lpips",)),
    Panel("Absolute error", "L1 in [-1, 1]", ("l1",)),
    Panel("Likelihood", "bits per token", ("bits_per_token",)),
    Panel("Codebook usage", "fraction of codes", ("usage",)),
    Panel("Codebook perplexity", "codes", ("perplexity",)),
    Panel(
        "Discriminator accuracy", "fraction of patches", ("accuracy_real", "accuracy_fake"), held_out=False
    ),
    Panel(
        "Discriminator weight",
        "factor",
        ("adaptive_weight", "discriminator_weight"),
        held_out=False,
        log_scale=True,
    ),
    Panel(
        "Gradient norm before clipping",
        "norm",
        ("gradient_norm", "discriminator_norm"),
        held_out=False,
        log_scale=True,
    ),
    Panel("Learning rate", "rate", ("lr",), held_out=False),
)


def read_log(path: Path) -> tuple[list[Row], int]:
    """Return the rows of a run's `log.jsonl`, and the number of lines that cannot be read; none without a file."""
    if not path.exists():
        return [], 0
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    rows = [row for row in map(_row, lines) if row is not None]
    return rows, len(lines) - len(rows)


def panel_series(panel: Panel, rows: Iterable[Row]) -> dict[str, Series]:
    """Return the series of a panel by name, without empty ones."""
    rows = [with_psnr(row) for row in rows]
    found = {key: _series(rows, key) for key in panel.keys}
    if panel.held_out:
        key = panel.keys[0]
        held_out = [{"step": row["step"], **row["held_out"]} for row in rows if "held_out" in row]
        found = {"training": _series(rows, key), "held-out": _series(held_out, key)}
    return {name: series for name, series in found.items() if series[0]}


def with_psnr(row: Row) -> Row:
    """Return the row with the PSNR of its mean squared error, of images in [-1, 1]: training rows have none."""
    error = row.get("l2")
    if isinstance(error, float) and error > 0 and math.isfinite(error):
        return row | {"psnr": 10 * math.log10(4 / error)}
    return row


def run_events(rows: Iterable[Row]) -> dict[str, list[int]]:
    """Return the steps of the events of a run by name."""
    rows = list(rows)
    events = {
        "discriminator starts": [row["step"] for row in rows if "discriminator" in row][:1],
        "rollback": [row["step"] for row in rows if row.get("monitor") == "roll_back"],
        "weight reduced": [row["step"] for row in rows if row.get("monitor") == "reduce_weight"],
        "best weights": [row["step"] for row in rows if row.get("best")][-1:],
    }
    return {name: steps for name, steps in events.items() if steps}


def _series(rows: Iterable[Row], key: str) -> Series:
    pairs = [(row["step"], row[key]) for row in rows if _is_number(row.get(key))]
    return [step for step, _ in pairs], [value for _, value in pairs]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _row(line: str) -> Row | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None
