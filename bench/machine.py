"""The machine and its limits, found on the spot: bytes a second of memory, operations a second of matrix products."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
import torch

from ..pipelines.pipeline import TYPES
from .timing import seconds_of

PACKAGES = ("imgtf", "torch", "accelerate", "transformers")
LARGE = {"cpu": 2**28, "cuda": 2**32}
"""Bytes that are read and copied: far beyond any cache."""
SIDE = {"cpu": 2048, "cuda": 8192}
"""Side of the square matrices that are multiplied."""
TRIES = 7
"""A limit is the best of so many tries: it is what the machine can do at all."""


@dataclass(frozen=True)
class Limits:
    """What the machine can do at most."""

    read: float
    """Bytes a second read from memory."""
    copy: float
    """Bytes a second read and written in a copy, both counted."""
    flops: dict[torch.dtype, float]
    """Operations a second of a matrix product, by type; an addition and a multiplication count as two."""


def measure_limits(device: torch.device, types: set[torch.dtype]) -> Limits:
    """Takes a few seconds; the machine should be doing nothing else."""
    size = min(LARGE.get(device.type, LARGE["cpu"]), psutil.virtual_memory().available // 8)
    if device.type == "cuda":
        size = min(size, torch.cuda.mem_get_info(device)[0] // 8)
    x = torch.ones(size // 4, device=device)
    y = torch.empty_like(x)
    rows = x.view(4096, -1) if x.numel() % 4096 == 0 else x[None]
    ones = torch.ones(rows.shape[1], device=device)
    # Which of the two reads faster depends on the library; each reads every number once.
    reads = (x.sum, lambda: rows @ ones)
    return Limits(
        read=max(x.nbytes / best_of(read, device) for read in reads),
        copy=2 * x.nbytes / best_of(lambda: y.copy_(x), device),
        flops={dtype: matrix_flops(device, dtype) for dtype in sorted(types, key=str)},
    )


def matrix_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a square matrix product."""
    n = SIDE.get(device.type, SIDE["cpu"])
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    return 2 * n**3 / best_of(lambda: a @ b, device)


def best_of(action: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest of some tries."""
    return min(seconds_of(action, device) for _ in range(TRIES))


def describe_machine(device: torch.device) -> dict[str, str | int | float]:
    """What a figure is worth nothing without."""
    described: dict[str, str | int | float] = {
        "processor": processor_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load": round(psutil.getloadavg()[0], 2),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d %H:%M %Z"),
    }
    if device.type == "cuda":
        described["gpu"] = torch.cuda.get_device_name(device)
    for package in PACKAGES:
        try:
            described[package] = version(package)
        except PackageNotFoundError:
            continue
    return described


def processor_name() -> str:
    """The processor's name as its maker gives it, where the system tells."""
    try:
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def type_name(dtype: torch.dtype) -> str:
    """fp32, bf16, fp16, int8."""
    return {kind: name for name, kind in TYPES.items()}[dtype]
