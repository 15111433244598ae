"""The tab that follows a training run: its curves and its last preview, read again every few seconds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import pandas as pd

from .curves import PLOTS, STAGES, RunLog, points, status
from .pictures import data_uri, line
from .site import Site
from .uploads import read_file

SECONDS = 5
"""Between two readings of the log."""
COLOURS = {"training": "#4878a8", "held-out": "#d1495b"}
PREVIEW_SIDE = 720
"""Largest side of the preview on the page."""


@dataclass(frozen=True)
class StageView:
    """The components of one stage."""

    log: RunLog
    seen: Any
    """gradio state: what the visitor has seen, so that nothing is sent twice."""
    heading: Any
    plots: dict[str, Any]
    preview: Any

    @property
    def components(self) -> list[Any]:
        return [self.seen, self.heading, *self.plots.values(), self.preview]

    def update(self, seen: Any) -> list[Any]:
        """Return the values of the components; only the heading where the log has not grown."""
        rows = self.log.read()
        heading = line(
            f"{self.log.stage.capitalize()}: {status(rows, self.log.steps, self.log.age)}", "stage"
        )
        preview = self.log.preview()
        now = [len(rows), rows[-1]["step"] if rows else 0, str(preview)]
        if now == seen:
            return [gr.skip(), heading, *[gr.skip()] * (len(self.plots) + 1)]
        return [now, heading, *(plot_of(points(rows, name)) for name in self.plots), preview_of(preview)]


def plot_of(series: list[Any]) -> Any:
    """Return the update of a plot; one without points is hidden."""
    if not series:
        return gr.update(visible=False)
    frame = pd.DataFrame(series, columns=["step", "value", "series"])
    return gr.update(value=frame, visible=True)


def preview_of(path: Path | None) -> Any:
    """Return a preview as HTML; nothing where there is none, or it is being written."""
    if path is None:
        return ""
    try:
        image = read_file(path, path.name)
    except Exception:  # written at this moment: shown the next time
        return gr.skip()
    image.thumbnail((PREVIEW_SIDE * 2, PREVIEW_SIDE * 2))
    step = path.stem.removeprefix("step-").lstrip("0") or "0"
    picture = f'<img src="{data_uri(image)}" alt="preview">'
    return f'<figure class="preview">{picture}<figcaption>Preview at step {step}</figcaption></figure>'


def build(site: Site) -> None:
    """Draw the tab: for each stage a line, its plots and its last preview."""
    views = [_stage(RunLog(site.folder, stage)) for stage in STAGES]
    seen = [component for view in views for component in view.components]

    def refresh(*states: Any) -> list[Any]:
        return [value for view, state in zip(views, states, strict=True) for value in view.update(state)]

    quiet: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": 4, "api_visibility": "private"}
    timer = gr.Timer(SECONDS)
    timer.tick(refresh, [view.seen for view in views], seen, **quiet)
    gr.on(None, refresh, [view.seen for view in views], seen, **quiet)


def _stage(log: RunLog) -> StageView:
    """Draw one stage; plots without points stay hidden."""
    with gr.Column(elem_classes="run"):
        heading = gr.HTML(line(f"{log.stage.capitalize()}: no run yet", "stage"))
        with gr.Row(elem_classes="plots"):
            plots = {name: _plot(title) for name, title in PLOTS.items()}
        preview = gr.HTML("")
    return StageView(log, gr.State(None), heading, plots, preview)


def _plot(title: str) -> Any:
    return gr.LinePlot(
        x="step", y="value", color="series", color_map=COLOURS, title=title, x_title="step", y_title=" ",
        color_title=" ", height=210, visible=False, buttons=[], min_width=260, container=False, tooltip="all",
    )  # fmt: skip
