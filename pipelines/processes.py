"""Several processes that torchrun or `accelerate launch` started for one command; usually there is just one."""

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

PATIENCE = timedelta(hours=6)
"""How long a process waits for the others, which have as many images to make, give or take a batch."""


@dataclass(frozen=True)
class Processes:
    """This process among the others."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    """Number on this machine."""
    local_world: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this one speaks for all."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, by rank, in every process; waits until each has got here.

        Raises:
            ImgtfError: when one of them has ended or does not come.
        """
        if self.world == 1:
            return [value]
        values = [None] * self.world
        try:
            dist.all_gather_object(values, value)
        except RuntimeError as error:  # gloo notices at once when the other end is gone
            reason = str(error).splitlines()[0]
            raise ImgtfError(
                f"process {self.rank} of {self.world} waited for one that is gone ({reason}); what it printed says why"
            ) from error
        return values

    def device(self, wanted: str) -> torch.device:
        """As `pick_device`, but `auto` gives each process of a machine a GPU of its own."""
        device = pick_device(wanted)
        if wanted == "auto" and device.type == "cuda" and self.local_world > 1:
            return torch.device("cuda", self.local_rank % torch.cuda.device_count())
        return device


@contextmanager
def joined() -> Iterator[Processes]:
    """Meets the other processes, where the environment says that there are any, and parts from them at the end.

    They talk over gloo whatever they compute on: a few names and numbers.

    Raises:
        ImgtfError: when they do not find each other.
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
        dist.init_process_group("gloo", timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ImgtfError(
            f"process {rank} of {world} does not find the others ({reason}); start them with torchrun or accelerate"
        ) from error
    try:
        yield Processes(rank, world, local_rank, local_world)
    finally:
        dist.destroy_process_group()
