"""Wall-clock times: cases are measured in turn, the first round does not count, and the median is reported."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from ..runtime.progress import Bar

MIN_SECONDS = 0.2
"""Shortest time of a measurement. Faster functions are repeated, and the time is divided."""
MAX_REPEATS = 200


@dataclass(frozen=True)
class Measurement:
    """A function to measure."""

    name: str
    run: Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """The times of a measurement."""

    seconds: tuple[float, ...]
    """One time per round."""
    peak: int | None
    """Most bytes in use during the first, uncounted call: by the process on a CPU, by torch's tensors on a GPU. None if
    the system does not report it."""

    @property
    def median(self) -> float:
        """Median time of a call in seconds."""
        return median(self.seconds)


def measure_in_turn(measurements: Sequence[Measurement], rounds: int, device: torch.device) -> list[Timing]:
    """Time every measurement once per round, so that changes of the machine's speed affect all of them."""
    total = len(measurements) * (1 + rounds)
    with Bar("bench", total, "run") as bar:

        def advance(name: str) -> None:
            bar.update()
            bar.note(name)

        peaks, repeats = [], []
        for one in measurements:
            with PeakMemory(device) as memory:
                seconds = seconds_of(one.run, device)
            peaks.append(memory.peak)
            repeats.append(min(MAX_REPEATS, max(1, round(MIN_SECONDS / max(seconds, 1e-9)))))
            advance(one.name)
        times: list[list[float]] = [[] for _ in measurements]
        for _ in range(rounds):
            for i, one in enumerate(measurements):
                times[i].append(seconds_of(one.run, device, repeats[i]))
                advance(one.name)
    return [Timing(tuple(own), peak) for own, peak in zip(times, peaks, strict=True)]


def seconds_of(action: Callable[[], object], device: torch.device, repeats: int = 1) -> float:
    """Return the wall-clock seconds per call, including the work on the device."""
    _synchronize(device)
    start = time.perf_counter()
    for _ in range(repeats):
        action()
    _synchronize(device)
    return (time.perf_counter() - start) / repeats


def speedup(baseline: Timing, timing: Timing) -> float:
    """Return how many times faster `timing` is than `baseline`: the median of the ratios of each round."""
    return median(a / b for a, b in zip(baseline.seconds, timing.seconds, strict=True))


class PeakMemory:
    """Records the most bytes in use within the block as `peak`."""

    peak: int | None = None

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __enter__(self) -> PeakMemory:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            _reset_process_peak()
        return self

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            self.peak = torch.cuda.max_memory_allocated(self.device)
        else:
            self.peak = _process_peak()


def _reset_process_peak() -> None:
    """Reset the peak resident memory that Linux records for this process. No effect on other systems."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _process_peak() -> int | None:
    """Return the peak resident memory of this process since the last reset in bytes; Linux only."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
