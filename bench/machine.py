"""Measured limits of the machine: bytes/s of memory, FLOP/s of matrix products."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import psutil
import torch

from .timing import seconds_of

BUFFER_BYTES = {"cpu": 2**28, "cuda": 2**32}
"""Bytes that are read and copied to measure memory: far more than any cache holds."""
MATRIX_SIZE = {"cpu": 2048, "cuda": 8192}
"""Rows and columns of the matrices that are multiplied to measure arithmetic."""
REPEATS = 7
"""A limit is the best of this many runs."""


@dataclass(frozen=True)
class Limits:
    """The measured limits of a machine."""

    read: float
    """Bytes/s read from memory."""
    copy: float
    """Bytes/s of a copy, read and written bytes together."""
    flops: dict[torch.dtype, float]
    """FLOP/s of a matrix product by type. An addition and a multiplication count as two."""


def measure_limits(device: torch.device, dtypes: set[torch.dtype]) -> Limits:
    """Measure the limits of a machine that does nothing else. Takes a few seconds."""
    size = min(BUFFER_BYTES.get(device.type, BUFFER_BYTES["cpu"]), psutil.virtual_memory().available // 8)
    if device.type == "cuda":
        size = min(size, torch.cuda.mem_get_info(device)[0] // 8)
    x = torch.ones(size // 4, device=device)
    y = torch.empty_like(x)
    rows = x.view(4096, -1) if x.numel() % 4096 == 0 else x[None]
    ones = torch.ones(rows.shape[1], device=device)
    # Both read every number once. Which one is faster depends on the library.
    reads = (x.sum, lambda: rows @ ones)
    return Limits(
        read=max(x.nbytes / best_of(read, device) for read in reads),
        copy=2 * x.nbytes / best_of(lambda: y.copy_(x), device),
        flops={dtype: matrix_flops(device, dtype) for dtype in sorted(dtypes, key=str)},
    )


def matrix_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Return the FLOP/s of a product of two square matrices."""
    n = MATRIX_SIZE.get(device.type, MATRIX_SIZE["cpu"])
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    return 2 * n**3 / best_of(lambda: a @ b, device)


def best_of(action: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of the fastest of several runs."""
    return min(seconds_of(action, device) for _ in range(REPEATS))
