"""Pictures of a finished run: its curves, drawn from the log alone, and how often each code is used.

They need matplotlib (extra `plot`), which is imported only here and only when something is drawn.
"""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

logger = logging.getLogger("imgtf")

Row = dict[str, Any]
Series = tuple[list[int], list[float]]
"""Steps and values."""

CURVES_FILE, USAGE_FILE = "curves.png", "usage.png"
"""Their names beside the run's log."""
TRAINING, HELD_OUT = "#4878a8", "#d1495b"
MORE_COLOURS = ("#4878a8", "#e08e0b", "#3a7d44", "#7b4fa3")
COLUMNS = 3


@dataclass(frozen=True)
class Panel:
    """One diagram: the figures it shows by their names in the log, if the log has them."""

    title: str
    unit: str
    keys: tuple[str, ...]
    both: bool = True
    """Training against held out, else several training figures together."""
    log: bool = False


PANELS = (
    Panel("Loss (weighted sum)", "loss", ("loss",)),
    Panel("Reconstruction", "PSNR in dB", ("psnr",)),
    Panel("Perceptual distance", "LPIPS", ("lpips",)),
    Panel("Absolute error", "L1 in [-1, 1]", ("l1",)),
    Panel("Likelihood", "bits a token", ("bits_per_token",)),
    Panel("Codebook in use", "share of codes", ("usage",)),
    Panel("Codebook perplexity", "codes", ("perplexity",)),
    Panel("Discriminator's accuracy", "share of patches", ("accuracy_real", "accuracy_fake"), both=False),
    Panel(
        "Weight of the discriminator",
        "factor",
        ("adaptive_weight", "discriminator_weight"),
        both=False,
        log=True,
    ),
    Panel(
        "Gradient norm before clipping", "norm", ("gradient_norm", "discriminator_norm"), both=False, log=True
    ),
    Panel("Learning rate", "rate", ("lr",), both=False),
)


def can_draw() -> bool:
    """Whether matplotlib is there; says once in the log how to get it where it is not."""
    if find_spec("matplotlib") is not None:
        return True
    logger.info('no pictures of the run: they need matplotlib (pip install "imgtf[plot]")')
    return False


def draw_curves(log: Path, path: Path) -> None:
    """Every figure of a run's `log.jsonl` over its steps, training beside held out, as one PNG.

    The discriminator's start, what the doctor did and the step of the best weights are marked.
    """
    from matplotlib.figure import Figure

    rows = [_with_psnr(json.loads(line)) for line in log.read_text().splitlines()]
    shown = [panel for panel in PANELS if _lines(panel, rows)]
    if not shown:
        return
    columns = min(COLUMNS, len(shown))
    lines = math.ceil(len(shown) / columns)
    figure = Figure(figsize=(4.6 * columns, 3.1 * lines + 0.5), layout="constrained")
    last = max(row["step"] for row in rows)
    for number, panel in enumerate(shown, 1):
        axes = figure.add_subplot(lines, columns, number)
        _draw(axes, panel, rows)
        _mark(axes, rows)
        axes.set_xlim(0, last * 1.02)
    _explain(figure, rows)
    figure.savefig(path, dpi=100)


def draw_usage(counts: np.ndarray, path: Path) -> None:
    """How often each of V codes is used, from counts (V,): a histogram over codes, and all codes in order.

    Frequencies are shown against those of even use, which would be 1 for every code.
    """
    from matplotlib.figure import Figure

    total, size = int(counts.sum()), len(counts)
    relative = np.sort(counts / max(total, 1) * size)[::-1]
    used = int((counts > 0).sum())
    p = counts[counts > 0] / max(total, 1)
    perplexity = float(np.exp(-(p * np.log(p)).sum()))
    figure = Figure(figsize=(9.2, 3.6), layout="constrained")
    figure.suptitle(
        f"{used:,} of {size:,} codes in use ({used / size:.1%}), perplexity {perplexity:,.0f}, {total:,} tokens",
        fontsize=11,
    )
    left, right = figure.subplots(1, 2)
    _histogram(left, relative)
    right.plot(np.arange(1, size + 1), relative, color=TRAINING)
    right.axhline(1, color="grey", linestyle=":", label="even use")
    right.set(
        xlabel="codes, most frequent first", ylabel="frequency / even use", title="Every code", xlim=(1, size)
    )
    right.set_ylim(bottom=0)
    for axes in (left, right):
        axes.legend(frameon=False, fontsize=8)
        _tidy(axes)
    figure.savefig(path, dpi=100)


def _histogram(axes: Any, relative: np.ndarray) -> None:
    """Codes by their frequency on a scale of factors of two; those never used stand apart on the left."""
    edges = np.arange(-5, 5.01, 0.5)
    values = np.log2(relative[relative > 0]).clip(edges[0], edges[-1])
    axes.hist(values, bins=edges, color=TRAINING, edgecolor="white", linewidth=0.5)
    never = int((relative == 0).sum())
    axes.bar(edges[0] - 1, never, width=0.9, color=HELD_OUT)
    axes.annotate(f"{never:,}", (edges[0] - 1, never), ha="center", va="bottom", fontsize=8)
    axes.axvline(0, color="grey", linestyle=":", label="even use")
    ticks = [edges[0] - 1, *range(-4, 5, 2)]
    names = ["never", *(f"1/{2**-t}" if t < 0 else f"{2**t}" for t in range(-4, 5, 2))]
    axes.set_xticks(ticks, names)
    axes.set(xlabel="frequency / even use", ylabel="number of codes", title="Codes by frequency")


def _with_psnr(row: Row) -> Row:
    """Training lines have the squared error only: the PSNR of its mean beside it, images being in [-1, 1]."""
    error = row.get("l2")
    if error and math.isfinite(error):
        row["psnr"] = 10 * math.log10(4 / error)
    return row


def _lines(panel: Panel, rows: list[Row]) -> dict[str, Series]:
    """The panel's series by name, empty ones left out."""
    found = {key: _series(rows, key) for key in panel.keys}
    if panel.both:
        key = panel.keys[0]
        held_out = [{"step": row["step"], **row["held_out"]} for row in rows if "held_out" in row]
        found = {"training": _series(rows, key), "held out": _series(held_out, key)}
    return {name: series for name, series in found.items() if series[0]}


def _series(rows: list[Row], key: str) -> Series:
    pairs = [(row["step"], row[key]) for row in rows if key in row and math.isfinite(row[key])]
    return [step for step, _ in pairs], [value for _, value in pairs]


def _draw(axes: Any, panel: Panel, rows: list[Row]) -> None:
    for number, (name, (steps, values)) in enumerate(_lines(panel, rows).items()):
        if name == "held out":
            axes.plot(steps, values, color=HELD_OUT, marker="o", markersize=3, label="held out")
        else:
            axes.plot(steps, values, color=MORE_COLOURS[number], linewidth=1.2, label=name.replace("_", " "))
    values = [v for _, series in _lines(panel, rows).values() for v in series]
    if panel.log and max(values) > 20 * min(values) > 0:
        axes.set_yscale("log")
    elif panel.keys == ("loss",) and len(values) > 10:
        _cut(axes, values)
    axes.set(title=panel.title, xlabel="step", ylabel=panel.unit)
    if len(axes.get_lines()) > 1:
        axes.legend(frameon=False, fontsize=8)
    _tidy(axes)


def _cut(axes: Any, values: list[float]) -> None:
    """Leaves the first, far higher values of a loss out of the picture: all else would be a flat line."""
    low, high = min(values), float(np.quantile(values, 0.97))
    if high > low:
        axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))


def _mark(axes: Any, rows: list[Row]) -> None:
    for step, colour, style in _events(rows).values():
        for place in step:
            axes.axvline(place, color=colour, linestyle=style, linewidth=1, zorder=0)


def _events(rows: list[Row]) -> dict[str, tuple[list[int], str, Any]]:
    """What happened, as (steps, colour, line style) by what to call it."""
    started = [row["step"] for row in rows if "discriminator" in row][:1]
    best = [row["step"] for row in rows if row.get("best")][-1:]
    events = {
        "discriminator starts": (started, "#e08e0b", "--"),
        "rollback": ([r["step"] for r in rows if r.get("monitor") == "roll_back"], "#b00020", "-"),
        "weight reduced": ([r["step"] for r in rows if r.get("monitor") == "reduce_weight"], "#b00020", ":"),
        "best weights": (best, "#3a7d44", ":"),
    }
    return {name: event for name, event in events.items() if event[0]}


def _explain(figure: Any, rows: list[Row]) -> None:
    """One legend for the marks of all panels, under them."""
    from matplotlib.lines import Line2D

    events = _events(rows)
    handles = [Line2D([], [], color=colour, linestyle=style) for _, colour, style in events.values()]
    names = [
        f"{name} ({len(steps)} times)" if len(steps) > 1 else name for name, (steps, _, _) in events.items()
    ]
    if names:
        figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False, fontsize=9)


def _tidy(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, alpha=0.25)
    axes.title.set_fontsize(10)
