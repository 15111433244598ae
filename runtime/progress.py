"""Progress bars on a terminal and in notebooks, with log lines above them. Elsewhere nothing is shown.

All bars of a process share one display, which rich draws in a thread of its own. rich is imported with the first bar.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, Task

REFRESHES = 5
"""Per second. Drawing takes about a millisecond."""
BAR_WIDTH = 14
DELAY = 0.5
"""Seconds after which a bar appears: short work shows none."""


class Bar:
    """The progress of one piece of work. Any thread may move it.

    >>> with Bar("encode", len(images), "image") as bar:
    ...     for image in images:
    ...         bar.update()
    """

    def __init__(
        self,
        what: str,
        total: float,
        unit: str,
        *,
        done: float = 0,
        shown: bool = True,
        delay: float = DELAY,
    ) -> None:
        """
        Args:
            what: the work, in front of the bar.
            unit: what is counted, in the singular.
            done: work that was done before.
            shown: False in all processes but the first.
            delay: seconds after which it appears.
        """
        self.what, self.total, self.unit, self.done, self.text = what, total, unit, done, ""
        self.visible = shown and can_show()
        """Whether there is a terminal or notebook to show it on."""
        self._appears = time.monotonic() + delay
        self._task: Any = None

    def update(self, count: float = 1) -> None:
        """Add to the work that is done."""
        self.done += count
        self._show(completed=self.done)

    def grow(self, count: float) -> None:
        """Add to the work to do."""
        self.total += count
        self._show(total=self.total)

    def note(self, text: str) -> None:
        """Show a text after the bar."""
        self.text = text
        self._show(note=text)

    def close(self) -> None:
        """Leave the bar as it is on the screen, and stop drawing."""
        self.visible = False
        if self._task is not None:
            _display.remove(self._task)
            self._task = None

    def _show(self, **changes: Any) -> None:
        if not self.visible:
            return
        if self._task is not None:
            _display.change(self._task, **changes)
        elif time.monotonic() >= self._appears:
            self._task = _display.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def can_show() -> bool:
    """Return whether stderr is a terminal that can move its cursor, or this is a notebook with ipywidgets.

    Of the processes that a launcher started, only the first shows bars.
    """
    if os.environ.get("RANK", "0") != "0":
        return False
    if "ipykernel" in sys.modules:
        return find_spec("ipywidgets") is not None
    return sys.stderr.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown")


def write_line(text: str) -> None:
    """Write a line to stderr, above the bars if there are any."""
    if not _display.write(text):
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def duration(seconds: float) -> str:
    """Return seconds as 0:42, 12:03 or 1:02:03."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class _Display:
    """The bars on the screen. rich draws from the first open bar to the last one."""

    def __init__(self) -> None:
        self.lock, self.open = threading.RLock(), 0
        self.progress: Progress | None = None

    def add(self, bar: Bar) -> Any:
        with self.lock:
            if self.progress is None:
                self.progress = _new_progress()
                self.progress.start()
            self.open += 1
            return self.progress.add_task(
                bar.what,
                total=bar.total,
                completed=int(bar.done),
                unit=bar.unit,
                note=bar.text,
                started_with=bar.done,
            )

    def change(self, task: Any, **changes: Any) -> None:
        with self.lock:
            if self.progress is not None:
                self.progress.update(task, **changes)

    def remove(self, task: Any) -> None:
        with self.lock:
            self.open -= 1
            if self.progress is not None:
                self.progress.stop_task(task)
            if self.open <= 0:
                self.stop()

    def write(self, text: str) -> bool:
        """Write a line above the bars; return False if there are none."""
        with self.lock:
            if self.progress is None:
                return False
            self.progress.console.print(text, markup=False, highlight=False, soft_wrap=True)
            return True

    def stop(self) -> None:
        with self.lock:
            progress, self.progress, self.open = self.progress, None, 0
            if progress is not None:
                progress.stop()

    def forget(self) -> None:
        """In a forked process, such as a worker of a data loader: the screen belongs to the parent."""
        self.__init__()  # type: ignore[misc]
        sys.stderr = getattr(sys.stderr, "rich_proxied_file", sys.stderr)


def _new_progress() -> Progress:
    """Return a display whose lines are work, bar, numbers, and a note that is cut where the line ends.

    Only stderr is redirected: results go to stdout, which may be a pipe.
    """
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
    from rich.table import Column
    from rich.text import Text

    class Numbers(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(_numbers(task))

    rest = Column(no_wrap=True, overflow="ellipsis", ratio=1)
    return Progress(
        TextColumn("{task.description}", markup=False), BarColumn(BAR_WIDTH),
        Numbers(Column(no_wrap=True)), TextColumn("{task.fields[note]}", markup=False, table_column=rest),
        console=_new_console(), refresh_per_second=REFRESHES, redirect_stdout=False, expand=True,
    )  # fmt: skip


def _new_console() -> Console:
    from rich.console import Console

    class VisibleCursor(Console):
        """A console that never hides the cursor: a process that is killed leaves the terminal as it was."""

        def show_cursor(self, show: bool = True) -> bool:
            return False

    return VisibleCursor(stderr=True)


def _numbers(task: Task) -> str:
    """What a line says after its bar: `120/500 3.1 step/s 2:03 left`, or `500/500 2:41` at the end."""
    total, elapsed = task.total or 0, task.elapsed or 0
    done = f"{task.completed:,.0f}/{total:,.0f}"
    if task.finished or task.stop_time is not None:
        return f"{done} {duration(elapsed)}"
    speed = task.speed or (task.completed - task.fields["started_with"]) / max(elapsed, 1e-9)
    if speed <= 0:
        return done
    return f"{done} {_short(speed)} {task.fields['unit']}/s {duration((total - task.completed) / speed)} left"


def _short(speed: float) -> str:
    return f"{speed:,.0f}" if speed >= 100 else f"{speed:.2g}"


_display = _Display()
atexit.register(_display.stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_display.forget)
