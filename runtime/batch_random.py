"""Random numbers of a training batch, and sums over the processes that share it.

On the CPU, every process draws the numbers of the whole batch from generators in the same state, and keeps those of its
own images. A run then draws the same numbers with any number of processes. On GPUs that would cost as many times the
numbers as there are processes: each process draws its own, from a generator with a seed of its own.

Shapes: B images of this process.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn

T = TypeVar("T")


def process_count() -> int:
    """Return the number of processes of the process group, 1 without one."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def process_index() -> int:
    """Return the number of this process in its group, 0 without one."""
    return distributed.get_rank() if process_count() > 1 else 0


def seed_batch_generators(seed: int) -> None:
    """Seed torch: the CPU's generator alike in all processes, that of a GPU differently in each."""
    torch.manual_seed(seed)
    if torch.cuda.is_available():
        torch.cuda.manual_seed(seed + process_index())


def batch_rand(*shape: int, device: torch.device) -> Tensor:
    """Return uniform random numbers in [0, 1) of shape (B, ...) for the images of this process."""
    if not _draws_whole_batch(device):
        return torch.rand(*shape, device=device)
    return own_rows(torch.rand(shape[0] * process_count(), *shape[1:]))


def batch_randint(high: int, *shape: int, device: torch.device) -> Tensor:
    """Return uniform random integers in [0, high) of shape (B, ...) for the images of this process."""
    if not _draws_whole_batch(device):
        return torch.randint(high, shape, device=device)
    return own_rows(torch.randint(high, (shape[0] * process_count(), *shape[1:])))


class BatchDropout(nn.Dropout):
    """Dropout of x (B, ...) with random numbers of the whole batch, see above."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0 or not _draws_whole_batch(x.device):
            return F.dropout(x, self.p, self.training)
        # As torch computes it on the CPU, which makes one process and several draw the same mask.
        kept = x.new_empty(x.shape[0] * process_count(), *x.shape[1:]).bernoulli_(1 - self.p)
        return x * own_rows(kept).div_(1 - self.p) if self.p < 1 else x * 0


def own_rows(rows: Tensor) -> Tensor:
    """Return this process's contiguous slice of the rows of a whole batch."""
    size = len(rows) // process_count()
    return rows[process_index() * size :][:size]


def mean_over_processes(x: Tensor) -> Tensor:
    """Return the mean of x over all processes. Its gradient is right once DDP has averaged the gradients."""
    if process_count() == 1:
        return x
    return sum_over_processes(x.detach()) / process_count() + (x - x.detach())


def sum_over_processes(x: Tensor) -> Tensor:
    """Return the sum of x over all processes, without a gradient."""
    if process_count() == 1:
        return x.detach()
    total = x.detach().clone()
    distributed.all_reduce(total)
    return total


def gather_rows(rows: Tensor) -> Tensor:
    """Return the rows (n, ...) of all processes in the order of the batch. Each has the same number n."""
    if process_count() == 1:
        return rows
    parts = [torch.empty_like(rows) for _ in range(process_count())]
    distributed.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def gather_objects(value: T) -> list[T]:
    """Return the values of all processes, in their order."""
    if process_count() == 1:
        return [value]
    values: list[Any] = [None] * process_count()
    distributed.all_gather_object(values, value)
    return values


def _draws_whole_batch(device: torch.device) -> bool:
    return device.type == "cpu" and process_count() > 1
