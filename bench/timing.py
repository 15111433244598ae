"""Fair times: what is compared takes turns, the first round does not count, the median does."""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from tqdm import tqdm

SHORTEST = 0.2
"""Seconds that a measurement lasts at least: what is done sooner is repeated and divided."""
MOST_REPEATS = 200


@dataclass(frozen=True)
class Measurement:
    """Something to time."""

    name: str
    run: Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """What an act took."""

    seconds: tuple[float, ...]
    """One figure a round."""
    peak: int | None
    """Most bytes held during the first, uncounted call: of the process on a CPU, of torch's tensors on a GPU; None
    where the system does not say."""

    @property
    def median(self) -> float:
        """Seconds of the middle round."""
        return median(self.seconds)


def take_turns(acts: Sequence[Measurement], rounds: int, device: torch.device) -> list[Timing]:
    """Times every act once a round, so that a change of the machine's pace meets all of them."""
    with tqdm(total=len(acts) * (1 + rounds), desc="bench", unit="run", disable=None, file=sys.stderr) as bar:

        def shown(name: str) -> None:
            bar.update()
            bar.set_postfix_str(name)

        peaks, repeats = [], []
        for act in acts:
            with PeakMemory(device) as memory:
                took = seconds_of(act.run, device)
            peaks.append(memory.peak)
            repeats.append(min(MOST_REPEATS, max(1, round(SHORTEST / max(took, 1e-9)))))
            shown(act.name)
        table: list[list[float]] = [[] for _ in acts]
        for _ in range(rounds):
            for i, act in enumerate(acts):
                table[i].append(seconds_of(act.run, device, repeats[i]))
                shown(act.name)
    return [Timing(tuple(row), peak) for row, peak in zip(table, peaks, strict=True)]


def seconds_of(action: Callable[[], object], device: torch.device, repeats: int = 1) -> float:
    """Wall-clock seconds of one call, the device's work included."""
    _wait_for(device)
    start = time.perf_counter()
    for _ in range(repeats):
        action()
    _wait_for(device)
    return (time.perf_counter() - start) / repeats


def ratio_of(others: Timing, own: Timing) -> float:
    """How many times faster `own` is: the median over rounds, whose halves were timed one after the other."""
    return median(a / b for a, b in zip(others.seconds, own.seconds, strict=True))


class PeakMemory:
    """Notes in `peak` the most bytes held at once within the block."""

    peak: int | None = None

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __enter__(self) -> PeakMemory:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            _reset_high_water()
        return self

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            self.peak = torch.cuda.max_memory_allocated(self.device)
        else:
            self.peak = _high_water()


def largest(peaks: Iterable[int | None]) -> int | None:
    """The largest of those that are known."""
    return max((peak for peak in peaks if peak is not None), default=None)


def _reset_high_water() -> None:
    """Linux then counts this process's highest memory from here on; elsewhere nothing happens."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _high_water() -> int | None:
    """Linux' highest resident memory of this process since the last reset, in bytes."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
