"""Copies of the weights and optimizer states in memory, for a rollback."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .ema import EMA
from .sharding import like, load_whole, whole
from .stage import Stage


def take_snapshot(stage: Stage, ema: EMA | None) -> dict[str, Tensor]:
    """Return copies of all weights, their EMA and the optimizer states on the CPU, as `section/name`."""
    sections: dict[str, Mapping[str, Tensor]] = {
        k: m.state_dict() for k, m in stage.trained_modules().items()
    }
    sections |= {name: optimizer_tensors(optimizer) for name, optimizer in stage.optimizers().items()}
    if ema is not None:
        sections["ema"] = ema.state()
    return {
        f"{section}/{name}": tensor.detach().to("cpu", copy=True)
        for section, tensors in sections.items()
        for name, tensor in whole(tensors).items()
    }


@torch.no_grad()
def restore_snapshot(snapshot: dict[str, Tensor], stage: Stage, ema: EMA | None) -> None:
    """Load the result of `take_snapshot`, which can be loaded more than once."""

    def section(wanted: str) -> dict[str, Tensor]:
        return {k.removeprefix(f"{wanted}/"): v for k, v in snapshot.items() if k.startswith(f"{wanted}/")}

    for name, module in stage.trained_modules().items():
        load_whole(module, section(name))
    for name, optimizer in stage.optimizers().items():
        # An optimizer updates the given tensors in place.
        load_optimizer(optimizer, {k: v.clone() for k, v in section(name).items()})
    if ema is not None:
        for name, average in section("ema").items():
            ema.state()[name].copy_(like(average, ema.state()[name]))


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's state as `index.key` -> tensor. Its settings come from the configuration."""
    state = optimizer.state_dict()["state"]
    return {
        f"{i}.{key}": torch.as_tensor(value) for i, values in state.items() for key, value in values.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Load the result of `optimizer_tensors`, made whole."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        parameter = parameters[int(index)]
        same = tensor.shape == parameter.shape
        state.setdefault(int(index), {})[key] = like(tensor, parameter) if same else tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
