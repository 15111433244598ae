"""The result of a search as files: a table (CSV and Markdown) and a plot."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..options import to_dict
from ..pretrained import CONFIG_FILE, read_json, whole_file, write_text
from ..prior.config import SamplingConfig
from ..runtime.optional import matplotlib_figure
from .plots import can_draw
from .search import SearchResult, Trial
from .search_space import SEARCHED, differences

CSV_FILE, TEXT_FILE, PLOT_FILE, JSON_FILE = "search.csv", "search.md", "search.png", "search.json"
SHOWN = 20
"""Most settings in the Markdown table."""
DRAWN = ("temperature", "top_k", "top_p", "cfg_scale", "cfg_schedule")


def write_search(result: SearchResult, out: Path, metric: str, about: Mapping[str, Any]) -> Path:
    """Write the table, the plot and the record of a search; return the path of the Markdown file.

    `about`: real images and feature networks of the distances, as `SampleQuality.about` gives them.
    The plot needs matplotlib; without it, a line in the log says so.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / CSV_FILE, _table(result.trials))
    write_text(out / JSON_FILE, json.dumps(record(result, metric) | {**about}, indent=2) + "\n")
    if can_draw():
        draw_search(result, out / PLOT_FILE, metric)
    write_text(out / TEXT_FILE, "\n".join([*lines(result, metric), "", *_about_lines(about)]) + "\n")
    return out / TEXT_FILE


def record(result: SearchResult, metric: str) -> dict[str, Any]:
    """What the search found, for JSON."""
    check = None if result.check is None else asdict(result.check)
    return {
        "metric": metric, "improved": result.improved, "conclusion": result.conclusion(),
        "default": to_dict(result.start), "best": to_dict(result.best), "check": check,
        "settings_tried": result.tried,
    }  # fmt: skip


def lines(result: SearchResult, metric: str) -> list[str]:
    """The result as Markdown."""
    text = ["# Search for sampling settings", "", f"By {metric}: {result.conclusion()}.", ""]
    if result.check is not None:
        text += _check_lines(result)
    names = _figure_names(result.trials)
    text += [
        "The score is relative to the default with as many samples: below 1 is better.", "",
        "| settings (changes of the default) | samples | score | " + " | ".join(names) + " |",
        "|---|---|---|" + "---|" * len(names),
    ]  # fmt: skip
    for trial in result.trials[:SHOWN]:
        values = " | ".join(f"{trial.figures[name]:.4g}" for name in names)
        changes = differences(trial.settings, result.start)
        text.append(f"| {changes} | {trial.images} | {trial.score:.4g} | {values} |")
    return text


def _about_lines(about: Mapping[str, Any]) -> list[str]:
    """The real images and the feature networks, as a list."""
    images = [
        f"- {what.replace('_', ' ')}: {own['images']} images of {own['data']}, split {own['split']}, at "
        f"{own['size'][0]}x{own['size'][1]} px"
        for what, own in about.items()
        if what != "features"
    ]
    networks = [
        f"- {name}: {own['preprocessing']}, weights {own['weights_sha256'] or 'without a hash'}"
        for name, own in about["features"].items()
    ]
    return images + networks


def _check_lines(result: SearchResult) -> list[str]:
    check = result.check
    assert check is not None
    rows = [f"| {name} | {check.start[name]:.4g} | {check.winner[name]:.4g} |" for name in check.start]
    return [f"On {check.images} fresh samples each:", "", "| figure | default | best of the search |", "|---|---|---|",
            *rows, ""]  # fmt: skip


def _figure_names(trials: Iterable[Trial]) -> list[str]:
    return list(dict.fromkeys(name for trial in trials for name in trial.figures))


def _table(trials: list[Trial]) -> str:
    """All candidates as CSV."""
    names = _figure_names(trials)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*SEARCHED, "samples", "score", *names, "seconds"])
    for trial in trials:
        settings = [getattr(trial.settings, name) for name in SEARCHED]
        figures = [trial.figures.get(name, "") for name in names]
        writer.writerow([*settings, trial.images, trial.score, *figures, round(trial.seconds, 3)])
    return text.getvalue()


def draw_search(result: SearchResult, path: Path, metric: str) -> None:
    """Plot the score of every candidate over each setting, as one PNG."""
    figure = matplotlib_figure(figsize=(3.1 * len(DRAWN), 3.4), layout="constrained")
    figure.suptitle(f"score by {metric}, relative to the default (lower is better)", fontsize=11)
    panels = figure.subplots(1, len(DRAWN), sharey=True)
    most = max(trial.images for trial in result.trials)
    for axes, name in zip(panels, DRAWN, strict=True):
        for trial in reversed(result.trials):
            _point(axes, name, trial, most, result)
        axes.axhline(1, color="grey", linestyle=":")
        axes.set(xlabel=name)
        axes.spines[["top", "right"]].set_visible(False)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=100, format="png")


def _point(axes: Any, name: str, trial: Trial, most: int, result: SearchResult) -> None:
    """One candidate: dark with many samples, the default grey, the best red."""
    colour = "#4878a8"
    if trial.settings == result.best:
        colour = "#d1495b"
    elif trial.settings == result.start:
        colour = "grey"
    shade = 0.25 + 0.75 * trial.images / most
    axes.plot([getattr(trial.settings, name)], [trial.score], "o", color=colour, alpha=shade, markersize=5)


def keep_settings(model: Path, settings: SamplingConfig) -> Path:
    """Make settings the model's defaults: replace `sampling` in the prior's configuration, which appears complete.

    Raises:
        CheckpointError: the configuration is missing or damaged.
    """
    path = model / "prior" / CONFIG_FILE
    values = read_json(path)
    if "sampling" not in values:
        raise CheckpointError(f"{path}: holds no sampling settings; is this the configuration of a prior?")
    write_text(path, json.dumps(values | {"sampling": to_dict(settings)}, indent=2) + "\n")
    return path
