"""The one worker that runs the model: one job at a time, which shows what it has so far and can be stopped."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Generic, TypeVar

from ..errors import ImgtfError, is_out_of_memory

logger = logging.getLogger("imgtf")

Shown = TypeVar("Shown")
PATIENCE = 30.0
"""Seconds that `close` waits for the running job to notice that it is stopped."""


class Stopped(Exception):
    """Raised inside a job that nobody waits for any more."""


class Job(Generic[Shown]):
    """What a job sees of the worker."""

    def __init__(self) -> None:
        self.events: SimpleQueue[tuple[bool, Shown | BaseException | None]] = SimpleQueue()
        """(whether it is the last one, what to show or the error)."""
        self.stop = threading.Event()

    def check(self) -> None:
        """Raise Stopped if the job is to end."""
        if self.stop.is_set():
            raise Stopped

    def show(self, value: Shown) -> None:
        """Show something. Raises Stopped if the job is to end."""
        self.check()
        self.events.put((False, value))


class Worker:
    """Runs jobs in a thread of their own, one after the other."""

    def __init__(self) -> None:
        self.turn = threading.Lock()
        self.jobs: set[Job] = set()

    def run(self, work: Callable[[Job[Shown]], None]) -> Iterator[Shown]:
        """Yield what `work` shows. When the iterator is closed, the job is stopped.

        Raises:
            ImgtfError: as `work` raises it; and other errors of it.
        """
        job: Job[Shown] = Job()
        thread = threading.Thread(target=self._run, args=(job, work), name="model", daemon=True)
        self.jobs.add(job)
        thread.start()
        try:
            last, value = job.events.get()
            while not last:
                yield value  # type: ignore[misc]
                last, value = job.events.get()
            if isinstance(value, BaseException):
                raise value
        finally:
            job.stop.set()
            self.jobs.discard(job)

    def _run(self, job: Job[Shown], work: Callable[[Job[Shown]], None]) -> None:
        error: BaseException | None = None
        try:
            with self.turn:  # a stopped job may still be in its last step
                job.check()
                work(job)
        except Stopped:
            pass
        except (Exception, KeyboardInterrupt) as raised:
            error = raised
        job.events.put((True, error))

    def stop(self) -> None:
        """Tell all jobs to end."""
        for job in list(self.jobs):
            job.stop.set()

    def close(self) -> None:
        """Stop all jobs and wait until they have ended."""
        self.stop()
        if self.turn.acquire(timeout=PATIENCE):
            self.turn.release()
        else:
            logger.warning("the model is still busy after %.0f s; leaving it", PATIENCE)


def message_of(error: BaseException) -> str | None:
    """Return an error in one line for a person; None for a fault of the program."""
    if isinstance(error, ImgtfError):
        return " ".join(str(error).split())
    if is_out_of_memory(error):
        return "out of memory: ask for fewer images"
    return None
