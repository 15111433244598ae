"""Results on stdout, log and errors on stderr, exit codes."""

from __future__ import annotations

import json
import logging
import os
import shlex
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import ImgtfError, Interrupted, OtherProcessError, is_out_of_memory
from ..pipelines.files import run_command

if TYPE_CHECKING:
    from ..training.loop import TrainingResult

FAILED, INTERRUPTED, TERMINATED = 1, 130, 143
"""Exit codes besides 0; 128 and the number of the signal for Ctrl-C and SIGTERM, which stands for SIGUSR1 too."""
REPORTING = 2.0
"""Seconds that another process has to report its error."""


def log_to_stderr() -> None:
    """Send the library's log to stderr, above any progress bar. Only the first of several processes logs."""
    from ..runtime.progress import write_line

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            write_line(self.format(record))

    logger = logging.getLogger("imgtf")
    logger.handlers = [Lines()]
    logger.setLevel(logging.INFO if is_first_process() else logging.ERROR)
    logger.propagate = False


def is_first_process() -> bool:
    """Whether this is the only process of the command, or the first of those that a launcher started."""
    return os.environ.get("RANK", "0") == "0"


def report(results: dict[str, Any], as_json: bool) -> None:
    """Print results: one JSON object, or a line each."""
    if as_json:
        click.echo(json.dumps(results))
        return
    for name, value in results.items():
        if isinstance(value, dict):
            click.echo(f"{name}:")
            for key, inner in value.items():
                click.echo(f"  {key:<22} {_plain(inner)}")
        else:
            click.echo(f"{name:<24} {_plain(value)}")


def report_files(key: str, paths: Iterable[Path], as_json: bool) -> None:
    """Print the paths that a command wrote: one JSON object with a list, or a line each."""
    names = [str(path) for path in paths]
    for line in [json.dumps({key: names})] if as_json else names:
        click.echo(line)


def report_run(folder: Path, result: TrainingResult, as_json: bool) -> None:
    """Print where a training run left its weights, and their held-out metrics."""
    if not is_first_process():
        return
    metrics = result.metrics
    if as_json:
        run = {
            "folder": str(folder),
            "steps": result.steps,
            "best_step": result.best_step,
            "metrics": metrics,
        }
        click.echo(json.dumps(run))
        return
    text = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items()) or "no held-out images"
    click.echo(f"{folder} (best at step {result.best_step} of {result.steps}: {text})")


def failure(error: BaseException) -> tuple[str, int] | None:
    """Return one line and the exit code for an error that a user can cause; None for a fault of the program."""
    if isinstance(error, click.ClickException):
        return f"Error: {error.format_message().removesuffix('.')}.{_see_help(error)}", error.exit_code
    if isinstance(error, Interrupted):
        code = INTERRUPTED if error.number == signal.SIGINT else TERMINATED
        return (f"Interrupted: {error}; resume with: {_resume(error)}" if is_first_process() else ""), code
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        return "Interrupted.", INTERRUPTED
    if isinstance(error, ImgtfError):
        return _line(error), FAILED
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"Error: {where}{error.strerror or error}", FAILED
    if is_out_of_memory(error):
        return "Error: out of memory; lower --batch-size or the size of the network", FAILED
    return None


def _line(error: ImgtfError) -> str:
    if isinstance(error, OtherProcessError):
        time.sleep(REPORTING)  # when this process has ended, a launcher ends the other one
        return ""
    return f"Error: {error}"


def _resume(error: Interrupted) -> str:
    """The command that continues an interrupted run; one of several processes is started by the same launcher."""
    processes, here = os.environ.get("WORLD_SIZE", "1"), os.environ.get("LOCAL_WORLD_SIZE", "1")
    command = f"{run_command(error.stage)} --model {shlex.quote(str(error.model))} --resume"
    if processes == "1":
        return f"imgtf {command}"
    if processes == here:
        return f"torchrun --nproc-per-node {here} -m imgtf {command}"
    return f"... -m imgtf {command}, started on every machine as before"


def _see_help(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return f" See {context.command_path} --help." if context else ""


def _plain(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)
