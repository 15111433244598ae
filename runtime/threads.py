"""The number of threads on a busy CPU.

The threads of an operator wait for the slowest of them. Where other programs hold some of the cores, that one waits for
its turn, in every operator: beside one busy program on two cores, two threads can be slower than one.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch
import torch.nn.functional as F

logger = logging.getLogger("imgtf")

BUSY_CORES = 0.3
"""Fewest cores held by other programs for which the speed is measured."""
WATCHED_SECONDS = 0.2
"""How long the other programs are watched."""
FASTER = 1.2
"""How much faster fewer threads must be; less is noise."""
ROUNDS, OPERATORS = 6, 10
"""Measurements of each number of threads, alternated because the load changes, and pairs of operators in each."""
MOST_SECONDS = 3.0
"""No further round begins after this time."""


@contextmanager
def threads_beside_others(device: torch.device) -> Iterator[None]:
    """Compute with fewer threads where that is faster, because other programs keep the CPU busy; one line says so.

    OMP_NUM_THREADS, and one thread, are left as they are.
    """
    before = torch.get_num_threads()
    if device.type != "cpu" or before == 1 or "OMP_NUM_THREADS" in os.environ:
        yield
        return
    busy = busy_cores()
    if busy >= BUSY_CORES and (threads := fastest_threads(before)) < before:
        logger.info(
            "threads: %d in place of %d: other programs hold %.1f of the %d cores, and fewer threads are faster; "
            "OMP_NUM_THREADS sets their number",
            threads, before, busy, psutil.cpu_count() or 1,
        )  # fmt: skip
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def busy_cores() -> float:
    """Return how many cores other programs hold at the moment; this one waits meanwhile."""
    return psutil.cpu_percent(interval=WATCHED_SECONDS) / 100 * (psutil.cpu_count() or 1)


def fastest_threads(most: int) -> int:
    """Return which number of threads is fastest: `most`, half of it, a quarter, and so on down to one."""
    numbers = [most]
    while numbers[-1] > 1:
        numbers.append(numbers[-1] // 2)
    seconds = dict.fromkeys(numbers, 0.0)
    start = time.perf_counter()
    try:
        for _ in range(ROUNDS):
            for number in numbers:
                torch.set_num_threads(number)
                seconds[number] += _seconds()
            if time.perf_counter() - start > MOST_SECONDS:
                break
    finally:
        torch.set_num_threads(most)
    fastest = min(numbers, key=seconds.__getitem__)
    return fastest if FASTER * seconds[fastest] < seconds[most] else most


@torch.inference_mode()
def _seconds() -> float:
    """Seconds of a chain of small operators, each of which waits for its threads, as in a network."""
    images, kernel = torch.zeros(4, 64, 32, 32), torch.zeros(64, 64, 3, 3)
    start = time.perf_counter()
    for _ in range(OPERATORS):
        images = F.silu(F.conv2d(images, kernel, padding=1))
    return time.perf_counter() - start
