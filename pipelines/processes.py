"""The processes that torchrun or `accelerate launch` started for one command. Usually there is one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from ..errors import ImgtfError
from ..runtime.device import pick_device

TIMEOUT = timedelta(hours=6)
"""How long a process waits for the others. All have the same number of images to sample, to within a batch."""


@dataclass(frozen=True)
class Processes:
    """This process and the number of all of them."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    """Rank among the processes of this machine."""
    local_world: int = 1
    group: dist.ProcessGroup | None = None
    """That they talk over; None for the default one."""

    @property
    def is_first(self) -> bool:
        """Whether this process writes the results of all."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes by rank, in every process. Waits for all of them.

        Raises:
            ImgtfError: a process has ended, or none answers within the timeout.
        """
        if self.world == 1:
            return [value]
        values = [None] * self.world
        with self._alive():
            dist.all_gather_object(values, value, group=self.group)
        return values

    def collect(self, value: Any) -> list[Any]:
        """Return the values of all processes by rank in the first process, and nothing in the others.

        Raises:
            ImgtfError: as for `gather`.
        """
        if self.world == 1:
            return [value]
        values = [None] * self.world if self.is_first else None
        with self._alive():
            dist.gather_object(value, values, group=self.group)
        return values or []

    @contextmanager
    def _alive(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # gloo notices at once when another process has ended
            reason = str(error).splitlines()[0]
            raise ImgtfError(
                f"process {self.rank} of {self.world}: another process has ended ({reason}); see its error"
            ) from error

    def device(self, wanted: str) -> torch.device:
        """Return the device of a name as `pick_device` does; `auto` gives each process of a machine its own GPU."""
        device = pick_device(wanted)
        if wanted == "auto" and device.type == "cuda" and self.local_world > 1:
            return torch.device("cuda", self.local_rank % torch.cuda.device_count())
        return device


ALONE = Processes()


def connected_processes() -> Processes:
    """Return the processes that Accelerate has connected. They talk over gloo: NCCL would need the memory of GPUs.

    All of them must call this.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return Processes()
    group = None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo", timeout=TIMEOUT)
    return Processes(dist.get_rank(), dist.get_world_size(), group=group)


@contextmanager
def process_group() -> Iterator[Processes]:
    """Connect to the other processes, if the environment names any, until the block ends.

    The backend is gloo on any device: processes only exchange names and numbers.

    Raises:
        ImgtfError: the processes cannot connect.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1 or dist.is_initialized():
        yield Processes()
        return
    rank, local_rank, local_world = (
        int(os.environ.get(name, default))
        for name, default in (("RANK", "0"), ("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "1"))
    )
    try:
        dist.init_process_group("gloo", timeout=TIMEOUT)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ImgtfError(
            f"process {rank} of {world} cannot connect to the others ({reason}); start with torchrun or "
            f"accelerate launch"
        ) from error
    try:
        yield Processes(rank, world, local_rank, local_world)
    finally:
        dist.destroy_process_group()
