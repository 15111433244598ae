"""The right half of a tab: pictures, a bar while they are drawn, the command and the download of a finished result."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from .drawing import Drawing
from .pictures import figures, line, placeholder, progress_bar
from .results import Result
from .worker import message_of

MODEL = {"concurrency_limit": 1, "concurrency_id": "model"}
"""Events that run the model take turns."""
ON_ITS_WAY = 0.5
"""Seconds in which the last preview of a stopped job reaches the page."""
Events = Iterator[Drawing | Result]


@dataclass(frozen=True)
class Output:
    """The components of one tab that show its result."""

    pictures: Any
    status: Any
    command: Any
    download: Any

    @property
    def components(self) -> list[Any]:
        return [self.pictures, self.status, self.command, self.download]

    def updates(self, event: Drawing | Result) -> list[Any]:
        """Return the values of the components for what is there so far."""
        if isinstance(event, Drawing):
            text = f"{event.done:,} of {event.total:,} codes"
            bar = progress_bar(event.done, event.total, text)
            return [figures(event.images, event.captions), bar, gr.skip(), gr.skip()]
        shown = figures(list(event.images.values()), event.captions, list(event.images))
        command = gr.update(value=event.command.line(), visible=True)
        return [shown, line(event.note), command, gr.update(value=event.archive(), visible=True)]


def output_area(hint: str, frames: int = 1) -> Output:
    """Draw the components, with empty frames until there is a result."""
    status = gr.HTML(line(hint), elem_classes="status", apply_default_css=False)
    pictures = gr.HTML(placeholder(frames), elem_classes="result", apply_default_css=False)
    command = gr.Textbox(
        label="The same from the command line, next to the unpacked download", visible=False, interactive=False,
        buttons=["copy"], lines=1, elem_classes="command",
    )  # fmt: skip
    download = gr.DownloadButton("Download images and settings", visible=False, size="sm")
    return Output(pictures, status, command, download)


def connect(
    button: Any, stop: Any, inputs: list[Any], output: Output, work: Callable[..., Events], name: str
) -> None:
    """Run `work` with the values of the inputs at a click, and show what it yields; `stop` ends it."""

    def handler(*given: Any) -> Iterator[list[Any]]:
        for event in in_words(lambda: work(*given)):
            yield output.updates(event)

    event = button.click(
        handler, inputs, output.components, preprocess=False, show_progress="minimal",
        show_progress_on=[output.status], api_name=name, api_visibility="undocumented", **MODEL,
    )  # fmt: skip
    said = {"fn": _stopped, "outputs": output.status, "queue": False, "api_visibility": "private"}
    # A preview that is on its way when the job is stopped may replace the line, which is therefore said again.
    stop.click(**said, cancels=[event]).then(**{**said, "fn": _still_stopped})


def _stopped() -> str:
    return line("Stopped.")


def _still_stopped() -> str:
    time.sleep(ON_ITS_WAY)
    return _stopped()


def in_words(work: Callable[[], Iterator[Any]]) -> Iterator[Any]:
    """Yield what `work` yields; an error that a person can cause becomes one message on the page."""
    try:
        yield from work()
    except Exception as error:
        message = message_of(error)
        if message is None:
            raise
        raise gr.Error(message, duration=15, print_exception=False) from None


def buttons(label: str) -> tuple[Any, Any]:
    """Draw the button that starts the work and the one that stops it."""
    with gr.Row():
        return gr.Button(label, variant="primary", scale=3), gr.Button("Stop", scale=1, min_width=80)
