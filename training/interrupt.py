"""SIGINT (Ctrl-C), SIGTERM and SIGUSR1 as a request to stop: the step is completed and the state saved first."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, Self

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))
"""Batch schedulers send SIGUSR1 (Slurm: --signal=USR1@60) or SIGTERM before they kill. Windows has no SIGUSR1."""


class StopRequest:
    """Context in which the first signal only sets `number`. A second SIGINT interrupts at once."""

    def __init__(self) -> None:
        self.number = 0
        """Of the first signal; 0 without one."""
        self._before: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self.number > 0

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.requested:
            raise KeyboardInterrupt
        self.number = self.number or number
