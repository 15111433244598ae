"""What the report of a model folder shows of one stage."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from PIL import Image

from ..pretrained import CONFIG_FILE, write_text
from ..runtime.progress import duration
from ..training.report import LOG_FILE
from .card_data import METRICS
from .figures import Figures
from .files import run_command, run_file, stage_of
from .html_page import data_uri, safe
from .run_log import PANELS, Row, panel_series, read_log, run_events
from .run_record import RUNNING, RunRecord, command_line, read_record
from .settings import DECODER_CLASSES, PRIOR_CLASSES, TOKENIZER_CLASSES
from .stage_facts import StageFacts
from .svg_chart import line_chart, short, usage_chart

COUNTS_FILE = "usage.json"
"""In `training/tokenizer`: how often each code is used on held-out images."""
CLASSES = {"tokenizer": TOKENIZER_CLASSES, "decoder": DECODER_CLASSES, "prior": PRIOR_CLASSES}
"""Settings of each run."""
MOST_PREVIEWS = 12
"""Of one stage, evenly spaced over the run."""
NEWEST_SIDE, SIDES = 900, (400, 280, 180)
"""Pixels of the longer side: of the newest preview, and of all, the first with which they fit."""
MOST_BYTES = 900_000
"""Of the previews of one stage, so that a report of two stages stays below 3 MB."""
QUALITY = 85
"""Of JPEG."""


def part_of(folder: Path, name: str) -> dict[str, Any] | None:
    """Return what the template shows of a run; None where the folder holds none.

    Raises:
        ImgtfError, OSError, ValueError: a file of the run cannot be read.
    """
    run, facts, file = folder / "training" / name, StageFacts.of_run(folder, name), run_file(Path(), name)
    settings = facts.settings()
    if not settings:
        return None
    record = read_record(run)
    rows, unreadable = read_log(run / LOG_FILE)
    step = max((row["step"] for row in rows), default=0)
    return {
        "name": name,
        "status": record.status if record else "",
        "running": record is not None and record.status == RUNNING,
        "cards": list(_cards(own_figures(facts, name), record, rows, step)),
        "notes": _notes(rows, unreadable, record),
        "charts": _charts(rows),
        "usage": _usage(run / COUNTS_FILE),
        "previews": previews(run / "previews"),
        "preview_text": _preview_text(name, record),
        "held_out": list(_held_out(rows)),
        "data": facts.data_lines() or [facts.data],
        "command": command_line(name, record.given) if record else "",
        "again": f"imgtf {run_command(name)} --config {file.as_posix()} --model new-model",
        "file": file.as_posix(),
        "settings": _settings(name, settings, record),
        "toml": tomli_w.dumps(settings),
        "machine": _machine(record),
        "network": _network(folder / stage_of(name) / CONFIG_FILE),
    }


def save_counts(counts: np.ndarray, run: Path) -> None:
    """Keep how often each code is used, (V,), for the report."""
    write_text(run / COUNTS_FILE, json.dumps({"counts": counts.tolist()}) + "\n")


def previews(folder: Path) -> list[dict[str, Any]]:
    """Return step, address and size of up to `MOST_PREVIEWS` previews; the newest is the largest."""
    files = {int(path.stem.removeprefix("step-")): path for path in folder.glob("step-*.png")}
    steps = sorted(files)
    chosen = sorted({steps[round(i)] for i in np.linspace(0, len(steps) - 1, MOST_PREVIEWS)}) if steps else []
    images = []
    for step in chosen:
        with Image.open(files[step]) as opened:
            images.append(opened.convert("L" if opened.mode == "L" else "RGB"))
    for side in SIDES:
        sides = [*[side] * (len(images) - 1), NEWEST_SIDE]
        shown = [_preview(*one) for one in zip(chosen, images, sides, strict=False)]
        if sum(len(one["uri"]) for one in shown) <= MOST_BYTES:
            break
    return shown[::-1] if images else []


def _preview(step: int, image: Image.Image, side: int) -> dict[str, Any]:
    image = image.copy()
    image.thumbnail((side, side))
    return {"step": step, "uri": data_uri(image, QUALITY), "width": image.width, "height": image.height}


def own_figures(facts: StageFacts, run: str) -> Figures | None:
    """Return the figures of the weights where they come from this run."""
    figures = facts.figures
    return figures if figures and (figures.run or stage_of(run)) == run else None


def _cards(
    figures: Figures | None, record: RunRecord | None, rows: Sequence[Row], step: int
) -> Iterable[tuple[str, str]]:
    decided = [row["steps"] for row in rows if "steps" in row]
    steps = decided[-1] if decided else record.steps if record else figures.steps if figures else step
    yield "steps", f"{step:,} of {steps:,}" if step < steps else f"{steps:,}"
    best = [row for row in rows if row.get("best")]
    metrics = best[-1]["held_out"] if best else dict(figures.metrics) if figures else {}
    for name, value in metrics.items():
        if name in METRICS:
            yield f"{METRICS[name]}, best weights", short(value)
    if record:
        yield from _amounts(record)
    seconds = max((row.get("seconds", 0) for row in rows), default=0)
    if seconds:
        yield "duration", duration(seconds)
    speeds = [row["images_per_second"] for row in rows if "images_per_second" in row]
    if speeds:
        yield "images per second (median)", short(float(np.median(speeds)))


def _amounts(record: RunRecord) -> Iterable[tuple[str, str]]:
    yield "parameters", f"{record.parameters:,}"
    yield "training images", f"{record.images:,}"
    yield "held-out images", f"{record.held_out:,}"


def _notes(rows: Sequence[Row], unreadable: int, record: RunRecord | None) -> list[str]:
    notes = (
        [] if rows or (record and record.status == RUNNING) else ["The log of the run is not there any more."]
    )
    if unreadable:
        notes.append(f"{unreadable:,} lines of the log cannot be read and are left out.")
    return notes


def _charts(rows: Sequence[Row]) -> list[dict[str, Any]]:
    events = run_events(rows)
    found = ((panel, panel_series(panel, rows)) for panel in PANELS)
    return [
        {
            "title": panel.title,
            "unit": panel.unit,
            "names": [(name.replace("_", " "), short(values[-1])) for name, (_, values) in series.items()],
            "held_out": [name == "held-out" for name in series],
            "svg": safe(line_chart(panel, series, events)),
        }
        for panel, series in found
        if series
    ]


def _usage(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    counts = np.array(json.loads(path.read_text(encoding="utf-8"))["counts"])
    used, total = int((counts > 0).sum()), int(counts.sum())
    p = counts[counts > 0] / max(total, 1)
    text = (
        f"{used:,} of {len(counts):,} codes in use ({used / len(counts):.1%}), "
        f"perplexity {math.exp(-(p * np.log(p)).sum()):,.0f}, {total:,} tokens"
    )
    return {"svg": safe(usage_chart(counts)), "text": text}


def _preview_text(stage: str, record: RunRecord | None) -> str:
    if stage == "prior":
        return "Samples of the averaged weights; where the model has conditions, with those of real images."
    images = "Training" if record and not record.held_out else "Held-out"
    return f"Rows alternate: {images.lower()} images, reconstructions of the averaged weights."


def _held_out(rows: Sequence[Row]) -> Iterable[dict[str, Any]]:
    """One line per evaluation: step, metrics by name, and whether its weights are the saved ones."""
    saved = max((row["step"] for row in rows if row.get("best")), default=0)
    for row in rows:
        if isinstance(row.get("held_out"), dict):
            metrics = {METRICS.get(name, name): short(value) for name, value in row["held_out"].items()}
            yield {"step": row["step"], "metrics": metrics, "saved": row["step"] == saved}


def _settings(
    run: str, settings: Mapping[str, Any], record: RunRecord | None
) -> dict[str, list[tuple[str, str, bool]]]:
    """Group -> name, value, and whether the user gave it."""
    groups = {
        f.name: f.metadata.get("group", "other") for cls in CLASSES[run] for f in dataclasses.fields(cls)
    }
    given = record.given if record else {}
    found: dict[str, list[tuple[str, str, bool]]] = {}
    for name, value in settings.items():
        text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
        found.setdefault(str(groups.get(name, "run")), []).append((name, text, name in given))
    return found


def _machine(record: RunRecord | None) -> dict[str, Any]:
    if record is None:
        return {}
    run = {"started": record.started, "last update": record.updated, "precision": record.precision}
    own = {
        name.replace("_", " "): value for name, value in record.machine.items() if name not in record.versions
    }
    return run | {"processes": record.processes} | own | dict(record.versions)


def _network(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip() if path.exists() else ""
