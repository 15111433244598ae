"""Plots of a finished run: the metrics in its log, and how often each code is used.

They need matplotlib (extra `plot`), which is imported only to plot.
"""

from __future__ import annotations

import logging
import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime.optional import matplotlib_figure
from .run_log import PANELS, Panel, Row, panel_series, read_log, run_events

logger = logging.getLogger("imgtf")

CURVES_FILE, USAGE_FILE = "curves.png", "usage.png"
"""Names of the plots next to the run's log."""
TRAINING_COLOUR, HELD_OUT_COLOUR = "#4878a8", "#d1495b"
COLOURS = ("#4878a8", "#e08e0b", "#3a7d44", "#7b4fa3")
EVENTS: dict[str, tuple[str, Any]] = {
    "discriminator starts": ("#e08e0b", "--"),
    "rollback": ("#b00020", "-"),
    "weight reduced": ("#b00020", ":"),
    "best weights": ("#3a7d44", ":"),
}
"""Colour and line style of each event."""
COLUMNS = 3


def can_draw() -> bool:
    """Return whether matplotlib is installed; if not, log how to install it."""
    if find_spec("matplotlib") is not None:
        return True
    logger.info('no plots of the run: they need matplotlib (pip install "imgtf[plot]")')
    return False


def draw_curves(log: Path, path: Path) -> None:
    """Plot the metrics of a run's `log.jsonl` over the steps as one PNG.

    Vertical lines mark the start of the discriminator, the actions of the divergence monitor, and the best weights.
    """
    rows = read_log(log)[0]
    panels = [panel for panel in PANELS if panel_series(panel, rows)]
    if not panels:
        return
    columns = min(COLUMNS, len(panels))
    rows_of_panels = math.ceil(len(panels) / columns)
    figure = matplotlib_figure(figsize=(4.6 * columns, 3.1 * rows_of_panels + 0.5), layout="constrained")
    last = max(row["step"] for row in rows)
    for number, panel in enumerate(panels, 1):
        axes = figure.add_subplot(rows_of_panels, columns, number)
        _plot_panel(axes, panel, rows)
        _mark_events(axes, rows)
        axes.set_xlim(0, last * 1.02)
    _add_legend(figure, rows)
    figure.savefig(path, dpi=100)


def draw_usage(counts: np.ndarray, path: Path) -> None:
    """Plot how often each of V codes is used, from counts (V,): a histogram, and all codes by frequency.

    Frequencies are relative to uniform use, where every code has 1.
    """
    total, size = int(counts.sum()), len(counts)
    relative = np.sort(counts / max(total, 1) * size)[::-1]
    used = int((counts > 0).sum())
    p = counts[counts > 0] / max(total, 1)
    perplexity = float(np.exp(-(p * np.log(p)).sum()))
    figure = matplotlib_figure(figsize=(9.2, 3.6), layout="constrained")
    figure.suptitle(
        f"{used:,} of {size:,} codes in use ({used / size:.1%}), perplexity {perplexity:,.0f}, {total:,} tokens",
        fontsize=11,
    )
    left, right = figure.subplots(1, 2)
    _histogram(left, relative)
    right.plot(np.arange(1, size + 1), relative, color=TRAINING_COLOUR)
    right.axhline(1, color="grey", linestyle=":", label="uniform use")
    right.set(
        xlabel="codes, most frequent first",
        ylabel="frequency / uniform use",
        title="All codes",
        xlim=(1, size),
    )
    right.set_ylim(bottom=0)
    for axes in (left, right):
        axes.legend(loc="upper right", frameon=False, fontsize=8)
        _style(axes)
    figure.savefig(path, dpi=100)


def _histogram(axes: Any, relative: np.ndarray) -> None:
    """Plot a histogram of the frequencies on a log2 scale. Unused codes have a bar of their own on the left."""
    edges = np.arange(-5, 5.01, 0.5)
    values = np.log2(relative[relative > 0]).clip(edges[0], edges[-1])
    axes.hist(values, bins=edges, color=TRAINING_COLOUR, edgecolor="white", linewidth=0.5)
    unused = int((relative == 0).sum())
    axes.bar(edges[0] - 1, unused, width=0.9, color=HELD_OUT_COLOUR)
    axes.annotate(f"{unused:,}", (edges[0] - 1, unused), ha="center", va="bottom", fontsize=8)
    axes.axvline(0, color="grey", linestyle=":", label="uniform use")
    ticks = [edges[0] - 1, *range(-4, 5, 2)]
    names = ["unused", *(f"1/{2**-t}" if t < 0 else f"{2**t}" for t in range(-4, 5, 2))]
    axes.set_xticks(ticks, names)
    axes.set(xlabel="frequency / uniform use", ylabel="number of codes", title="Codes by frequency")


def _plot_panel(axes: Any, panel: Panel, rows: list[Row]) -> None:
    for number, (name, (steps, values)) in enumerate(panel_series(panel, rows).items()):
        if name == "held-out":
            axes.plot(steps, values, color=HELD_OUT_COLOUR, marker="o", markersize=3, label="held-out")
        else:
            marker = "." if len(steps) == 1 else None  # a line of one point is invisible
            label = name.replace("_", " ")
            axes.plot(steps, values, color=COLOURS[number], linewidth=1.2, marker=marker, label=label)
    values = [v for _, series in panel_series(panel, rows).values() for v in series]
    if panel.log_scale and max(values) > 20 * min(values) > 0:
        axes.set_yscale("log")
    elif panel.keys == ("loss",) and len(values) > 10:
        _limit_y(axes, values)
    axes.set(title=panel.title, xlabel="step", ylabel=panel.unit)
    if len(axes.get_lines()) > 1:
        # Where the curves do not end. The search for the best place warns of its own slowness on a busy machine.
        place = "lower right" if values[-1] > (min(values) + max(values)) / 2 else "upper right"
        axes.legend(loc=place, frameon=False, fontsize=8)
    _style(axes)


def _limit_y(axes: Any, values: list[float]) -> None:
    """Limit the y axis to the lower 97 % of the values: with the first losses, the rest would be a flat line."""
    low, high = min(values), float(np.quantile(values, 0.97))
    if high > low:
        axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))


def _mark_events(axes: Any, rows: list[Row]) -> None:
    for name, steps in run_events(rows).items():
        colour, style = EVENTS[name]
        for step in steps:
            axes.axvline(step, color=colour, linestyle=style, linewidth=1, zorder=0)


def _add_legend(figure: Any, rows: list[Row]) -> None:
    """Add one legend of the events under all panels."""
    from matplotlib.lines import Line2D

    events = run_events(rows)
    styles = [EVENTS[name] for name in events]
    handles = [Line2D([], [], color=colour, linestyle=style) for colour, style in styles]
    names = [f"{name} ({len(steps)} times)" if len(steps) > 1 else name for name, steps in events.items()]
    if names:
        figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False, fontsize=9)


def _style(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, alpha=0.25)
    axes.title.set_fontsize(10)
