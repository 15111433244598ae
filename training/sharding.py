"""Weights, gradients and optimizer states divided among the processes (FSDP2, arXiv:2304.11277).

A sharded tensor is a `DTensor`: this process holds a slice of it along the first dimension. Files hold whole tensors,
so that a run can go on with another number of processes, sharded or not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils.operations import ConvertOutputsToFp32
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from ..errors import ConfigError


def check_sharding(accelerator: Accelerator) -> None:
    """Raise ConfigError where training cannot be sharded."""
    if not distributed.is_available() or not distributed.is_initialized():
        raise ConfigError(
            "--shard divides the weights among several processes, and there is one: start with torchrun or "
            "accelerate launch, or leave out --shard"
        )
    if accelerator.mixed_precision == "fp16":
        raise ConfigError("--shard does not work with --precision fp16: use bf16 or fp32")


def shard(network: Any, units: Iterable[nn.Module], accelerator: Accelerator) -> None:
    """Divide the weights of a `WrappedModel` among the processes.

    Each unit is gathered when it computes, and freed again; what is in no unit is gathered for the whole step.
    """
    # Without a name, a mesh of `alone` would equal that of the run, and DTensor would take it from its caches.
    assert distributed.group.WORLD is not None
    name = f"processes-{distributed.group.WORLD.group_name}"
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,), mesh_dim_names=(name,))
    network.to(accelerator.device, memory_format=torch.contiguous_format)  # all that FSDP2 takes
    for unit in units:
        fully_shard(unit, mesh=mesh)
    fully_shard(network, mesh=mesh)
    compute = network.compute or network.model

    def with_autocast(*inputs: Any, **named: Any) -> Any:
        with accelerator.autocast():
            return compute(*inputs, **named)

    network.compute = ConvertOutputsToFp32(
        with_autocast
    )  # as Accelerate does for a network that is not sharded


@contextmanager
def unsharded(network: nn.Module) -> Iterator[None]:
    """Hold the whole weights in every process within the block, to evaluate the network, not to train it.

    All processes enter and leave the block together; in between each may compute on its own.
    """
    parts = [module for module in network.modules() if isinstance(module, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(part is not network, recurse=False)
        assert isinstance(network, FSDPModule)
        network.reset_iter_state()  # shards again, and forgets forward passes that not every process made


def whole(tensors: Mapping[str, Tensor], *, keep: bool = True) -> dict[str, Tensor]:
    """Return whole tensors by name; those that were sharded lie on the CPU.

    If some are sharded, all processes call it together; without `keep` a process only takes part, and gets none. Only
    one tensor at a time is whole on the device.
    """
    found = {}
    for name, tensor in tensors.items():
        full = tensor.full_tensor().cpu() if isinstance(tensor, DTensor) else tensor
        if keep:
            found[name] = full
    return found


def like(value: Tensor, target: Tensor) -> Tensor:
    """Return a whole tensor as the target is: this process's slice of it where that is sharded."""
    if not isinstance(target, DTensor):
        return value
    value = value.to(target.device)
    return distribute_tensor(value, target.device_mesh, target.placements, src_data_rank=None)


@torch.no_grad()
def load_whole(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy whole tensors into a module, which may be sharded."""
    module.load_state_dict({name: like(tensors[name], t) for name, t in module.state_dict().items()})


def local(tensor: Tensor) -> Tensor:
    """Return this process's part of a tensor, which shares its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
