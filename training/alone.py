"""Collective operations that wait for no other process, for a trial that one of the processes may leave."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..runtime.batch_random import process_count


@contextmanager
def alone() -> Iterator[None]:
    """Let collective operations of the default group return at once within the block, without the others' values.

    They take the memory that they take between processes, also in DDP (see `quiet`) and FSDP2: PyTorch's fake backend
    knows the number of processes, and fills what it gathers with the values of this one. All processes enter and leave
    the block together.
    """
    if process_count() == 1:
        yield
        return
    import torch.testing._internal.distributed.fake_pg  # noqa: F401, registers the backend

    real, fake = dist.group.WORLD, dist.new_group(backend="fake")
    dist.group.WORLD = fake
    try:
        yield
    finally:
        dist.group.WORLD = real
        dist.destroy_process_group(fake)


def quiet(networks: Iterable[nn.Module]) -> None:
    """Let DDP fill its gradient buckets without sending them, because it cannot read the fake backend's answers."""
    from torch.distributed.algorithms.ddp_comm_hooks.debugging_hooks import noop_hook

    for network in networks:
        if isinstance(network, DistributedDataParallel):
            network.register_comm_hook(None, noop_hook)
