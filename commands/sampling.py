"""Options and the run that `imgtf sample` and the editing commands share."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..prior.config import SamplingConfig
from .options import (
    device_option,
    folder_type,
    force_option,
    json_option,
    model_option,
    named,
    option,
    precision_option,
    settings_options,
)
from .reporting import log_to_stderr
from .types import MAX_BATCH, MAX_FIRST, MAX_IMAGES, MAX_SEED, SAMPLING_PRECISIONS, AutoOrCount, WholeRange

if TYPE_CHECKING:
    from ..pipelines.canvas import Canvas
    from ..pipelines.pipeline import Pipeline
    from ..pipelines.processes import Processes
    from ..pipelines.request import Progress

Function = Callable[..., Any]
TURNS = "several take turns"


@dataclass(frozen=True)
class PreparedRun:
    """A loaded model, the processes that share the work, and the folder of the results."""

    pipeline: Pipeline
    processes: Processes
    out: Path
    what: str
    """What is sampled, for the bar."""

    @contextmanager
    def bar(self, tokens: int) -> Iterator[Progress]:
        """Show a bar of that many tokens, of all processes, and yield what moves it."""
        from ..runtime.progress import Bar

        with Bar(self.what, tokens, "token", shown=self.processes.is_first) as bar:
            yield lambda codes: bar.update(codes * self.processes.world)


@dataclass(frozen=True)
class SamplingRun:
    """The options that all sampling commands share."""

    n: int
    label: tuple[str, ...]
    text: tuple[str, ...]
    seed: int
    first: int
    batch_size: int | None
    model: Path
    out: Path | None
    force: bool
    precision: str
    compile: bool
    capture: bool
    device: str
    as_json: bool
    settings: dict[str, Any]
    """The sampling settings that were given."""

    def write(
        self,
        folder: str,
        canvas_of: Callable[[Pipeline], Canvas | Sequence[Canvas]] | None = None,
        *,
        n: int | None = None,
        names: Sequence[str] | None = None,
        record: Mapping[str, Any] | None = None,
        **conditions: Any,
    ) -> None:
        """Sample into `--out`, or the next free `MODEL/folder/NNN`, and print the path of the grid.

        Args:
            canvas_of: makes the canvas of an editing command, or several, see `write_samples`; its errors come before
                anything is written.
            n: number of images where it is not `--n`.
            names, record: see `write_samples`.
            conditions: conditions besides `--label` and `--text`, or in their place.
        """
        from ..pipelines.write import write_samples

        n = n or self.n
        given = {"label": self.label or None, "text": self.text or None} | conditions
        with self.prepared(folder) as prepared:
            pipeline, processes, out = prepared.pipeline, prepared.processes, prepared.out
            canvas = canvas_of(pipeline) if canvas_of else None
            with prepared.bar(n * _missing_codes(pipeline, canvas)) as progress:
                grid = write_samples(
                    pipeline, out, n, seed=self.seed, first=self.first, batch_size=self.batch_size, force=self.force,
                    progress=progress, processes=processes, conditions=given, settings=self.settings, canvas=canvas,
                    names=names, record=record,
                )  # fmt: skip
            self.report(prepared, grid, n)

    @contextmanager
    def prepared(self, folder: str) -> Iterator[PreparedRun]:
        """Load the model and choose the folder of the results: `--out`, or the next free `MODEL/folder/NNN`."""
        log_to_stderr()
        from ..pipelines.pipeline import Pipeline
        from ..pipelines.processes import process_group
        from ..pipelines.write import check_out, results_in
        from ..runtime.repository import results_folder

        stop_on_terminate()
        with process_group() as processes:
            if self.out and processes.is_first:
                check_out(self.out, self.force)
            pipeline = Pipeline.from_pretrained(
                self.model, processes.device(self.device), precision=self.precision, compile=self.compile,
                capture=self.capture,
            )  # fmt: skip
            with results_in(self.out, results_folder(self.model) / folder, processes) as out:
                yield PreparedRun(pipeline, processes, out, folder.rstrip("s"))

    def report(self, prepared: PreparedRun, grid: Path, n: int) -> None:
        """Print the path of the grid, in the first process."""
        if prepared.processes.is_first:
            click.echo(json.dumps({"grid": str(grid), "n": n}) if self.as_json else grid)


def _missing_codes(pipeline: Pipeline, canvas: Canvas | Sequence[Canvas] | None) -> int:
    """Return the number of codes to sample for one image of each canvas."""
    if canvas is None:
        return pipeline.prior.config.tokens
    return sum(one.missing for one in canvas) if isinstance(canvas, Sequence) else canvas.missing


def sampling_run(images: int, folder: str) -> Callable[[Function], Function]:
    """Add the shared options to a command, which gets them as `run: SamplingRun`.

    Args:
        images: default of `--n`.
        folder: where results go in the model's folder, for the help.
    """

    def decorate(function: Function) -> Function:
        @wraps(function)
        def call(**given: Any) -> Any:
            own = {name: given.pop(name) for name in _SHARED}
            settings = named({name: given.pop(name) for name in SamplingConfig.__dataclass_fields__})
            return function(run=SamplingRun(**own, settings=settings), **given)

        decorated: Function = call
        for decorator in reversed(_shared_options(images, folder)):
            decorated = decorator(decorated)
        return decorated

    return decorate


_SHARED = [name for name in SamplingRun.__dataclass_fields__ if name != "settings"]


def _shared_options(images: int, folder: str) -> list[Callable[[Function], Function]]:
    return [
        *_image_options(images, "none" if folder == "edits" else "all classes"),
        settings_options(SamplingConfig, owner="the model's"),
        option(
            "--batch-size", type=AutoOrCount(MAX_BATCH), metavar="N", default="auto", group="device",
            help="Images at once; auto: as many as half of the free memory holds.",
        ),
        model_option,
        option(
            "--out", type=folder_type, metavar="DIR", group="output",
            default_text=f"next free MODEL/{folder}/NNN", help="Folder for the grid and the single images.",
        ),
        force_option("files in a folder that is not empty"),
        precision_option("bf16 where that is faster", SAMPLING_PRECISIONS),
        option(
            "--compile", is_flag=True, group="device", common=False,
            help="Compile the decoding steps of causal priors: faster after half a minute.",
        ),
        option(
            "--capture", is_flag=True, group="device", common=False,
            help="CUDA graphs for the decoding steps of causal priors; untested.",
        ),
        device_option,
        json_option,
    ]  # fmt: skip


def _image_options(images: int, label: str) -> list[Callable[[Function], Function]]:
    return [
        option(
            "--n", "-n", type=WholeRange(1, MAX_IMAGES), metavar="N", default=images, group="images",
            help="Number of images.",
        ),
        option(
            "--label", multiple=True, group="images", default_text=label, help=f"Class name; {TURNS}."
        ),
        option("--text", multiple=True, group="images", help=f"Caption; {TURNS}."),
        option(
            "--seed", type=WholeRange(0, MAX_SEED), metavar="N", default=0, group="images",
            help="Same seed, same images, at any batch size.",
        ),
        option(
            "--first", type=WholeRange(0, MAX_FIRST), metavar="N", default=0, group="images", common=False,
            help="Number of the first image in the sequence of the seed.",
        ),
    ]  # fmt: skip


def stop_on_terminate() -> None:
    """Handle SIGTERM like Ctrl-C. Launchers send it to all processes when one fails."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
