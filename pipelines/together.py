"""Work that several processes do together: an error in one of them ends it in all, and is reported once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from ..errors import ImgtfError, OtherProcessError
from .processes import Processes

T = TypeVar("T")


class Together:
    """The meetings of the processes during a piece of work. Each process comes to all of them, or dies."""

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self.over = False
        """Whether an error has ended the work in all processes."""

    def gathered(self, own: Iterator[T]) -> Iterator[T]:
        """Yield the results of all processes in the first one, and nothing in the others, which just go through it.

        Args:
            own: results 0, 1, ... of this process, which are r, r + W, ... of all: process r of W.
        """
        result, error = _next(own)
        while any(self.meet(result is not None, error)):
            yield from (one for one in self.processes.collect(result) if one is not None)
            result, error = _next(own)

    def meet(self, value: T, error: Exception | None = None) -> list[T]:
        """Wait for all processes, and return their values by rank.

        Args:
            error: that ends the work in this process, and so in all.

        Raises:
            Exception: the error of the first process that has one; in the others as an OtherProcessError.
        """
        self.over = True
        states = self.processes.gather((_text(error), value))
        for rank, (text, _) in enumerate(states):
            if text and rank == self.processes.rank and error is not None:
                raise error
            if text:
                raise OtherProcessError(f"process {rank} of {self.processes.world}: {text}") from error
        self.over = False
        return [value for _, value in states]


@contextmanager
def together(processes: Processes) -> Iterator[Together]:
    """A block that all processes leave at the same time, and with an error if one of them has one.

    A process that is interrupted leaves at once. The others notice when it has ended.
    """
    work = Together(processes)
    try:
        yield work
    except Exception as error:
        if work.over:
            raise
        work.meet(None, error)
    else:
        work.meet(None)


def first_before_others(processes: Processes, action: Callable[[], T]) -> T:
    """Call a function in the first process and then in the others, which find what it has downloaded."""
    results = []
    for turn in (True, False):
        with together(processes):
            if processes.is_first == turn:
                results.append(action())
    return results[0]


def _next(results: Iterator[T]) -> tuple[T | None, Exception | None]:
    try:
        return next(results, None), None
    except Exception as error:
        return None, error


def _text(error: Exception | None) -> str:
    """One line about an error; "" without one."""
    if error is None:
        return ""
    name = "" if isinstance(error, ImgtfError) else f"{type(error).__name__}: "
    return name + (str(error) or type(error).__name__)
