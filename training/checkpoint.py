"""The state that a run resumes from: weights, averages, optimizers, random numbers, progress. No pickle.

A state is a folder `step-00000500/` that is renamed into place when it is complete, so a run that is killed
while saving still has the one before.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..errors import CheckpointError
from ..pretrained import load_tensors, read_json, write_tensors, write_text
from .ema import EMA
from .stage import Stage

FORMAT = 2


def latest_state(folder: Path) -> Path | None:
    """The newest complete state under `folder`, or None."""
    states = sorted(p for p in folder.glob("step-*") if p.is_dir() and p.suffix != ".tmp")
    return states[-1] if states else None


def save_state(
    folder: Path,
    stage: Stage,
    ema: EMA | None,
    accelerator: Accelerator,
    progress: dict[str, Any],
    sums: dict[str, Tensor],
    good: dict[str, Tensor],
) -> None:
    """Saves the state of all processes as `folder/step-N` (N from `progress`), then drops older ones.

    Args:
        sums: of this process, the figures since the last log line.
        good: the weights that the run may go back to (see `take_weights`), empty where there are none.
    """
    target = folder / f"step-{progress['step']:08d}"
    temporary = target.with_suffix(".tmp")
    if accelerator.is_main_process:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    accelerator.wait_for_everyone()
    try:
        rank = accelerator.process_index
        write_tensors(temporary / f"random-{rank}.safetensors", random_state())
        write_tensors(temporary / f"stage-{rank}.safetensors", stage.tensors())
        write_tensors(temporary / f"sums-{rank}.safetensors", sums)
        if accelerator.is_main_process:
            _write_shared(temporary, stage, ema, accelerator, progress, good)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(
            f"{target}: cannot save the training state ({error}); the one before is kept"
        ) from error
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
        for old in folder.glob("step-*"):
            if old != target:
                shutil.rmtree(old)
    accelerator.wait_for_everyone()


def load_state(
    state: Path, stage: Stage, ema: EMA | None, accelerator: Accelerator
) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
    """Restores everything from one state folder and returns progress, sums and good weights (see `save_state`).

    Raises:
        CheckpointError: when a file is damaged or does not fit this model or this number of processes.
    """
    progress = read_json(state / "progress.json")
    if progress.pop("format", None) != FORMAT:
        raise CheckpointError(f"{state}: saved by another version of imgtf; start the run anew with --force")
    if progress["processes"] != accelerator.num_processes:
        raise CheckpointError(
            f"{state}: saved by {progress['processes']} processes, resumed with {accelerator.num_processes}"
        )
    for name, module in stage.trained().items():
        load_tensors(module, state / f"{name}.safetensors")
    for name, optimizer in stage.optimizers().items():
        _load_optimizer(optimizer, _load(state / f"{name}.safetensors"))
    if ema is not None:
        averages = _load(state / "ema.safetensors")
        for name, average in ema.state().items():
            average.copy_(averages[name])
    if accelerator.scaler is not None and progress["scaler"]:
        accelerator.scaler.load_state_dict(progress["scaler"])
    rank = accelerator.process_index
    stage.load_state(progress["stage"], _load(state / f"stage-{rank}.safetensors"))
    sums = {k: v.to(accelerator.device) for k, v in _load(state / f"sums-{rank}.safetensors").items()}
    good = _load(state / "good.safetensors")
    set_random_state(_load(state / f"random-{rank}.safetensors"))
    return progress, sums, good


def take_weights(stage: Stage, ema: EMA | None) -> dict[str, Tensor]:
    """Copies of all weights, their averages and the optimizers' states in main memory, as `part/name`."""
    parts: dict[str, Mapping[str, Tensor]] = {k: m.state_dict() for k, m in stage.trained().items()}
    parts |= {name: _optimizer_tensors(optimizer) for name, optimizer in stage.optimizers().items()}
    if ema is not None:
        parts["ema"] = ema.state()
    return {
        f"{part}/{name}": tensor.detach().to("cpu", copy=True)
        for part, tensors in parts.items()
        for name, tensor in tensors.items()
    }


@torch.no_grad()
def put_weights(kept: dict[str, Tensor], stage: Stage, ema: EMA | None) -> None:
    """The reverse of `take_weights`; `kept` may be put again."""

    def part(wanted: str) -> dict[str, Tensor]:
        return {k.removeprefix(f"{wanted}/"): v for k, v in kept.items() if k.startswith(f"{wanted}/")}

    for name, module in stage.trained().items():
        module.load_state_dict(part(name))
    for name, optimizer in stage.optimizers().items():
        # An optimizer works on the very tensors that it is given.
        _load_optimizer(optimizer, {k: v.clone() for k, v in part(name).items()})
    if ema is not None:
        for name, average in part("ema").items():
            ema.state()[name].copy_(average)


def random_state() -> dict[str, Tensor]:
    """The global generators of this process."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Tensor]) -> None:
    """Puts the generators back where `random_state` found them."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def _write_shared(
    folder: Path,
    stage: Stage,
    ema: EMA | None,
    accelerator: Accelerator,
    progress: dict[str, Any],
    good: dict[str, Tensor],
) -> None:
    for name, module in stage.trained().items():
        write_tensors(folder / f"{name}.safetensors", module.state_dict())
    for name, optimizer in stage.optimizers().items():
        write_tensors(folder / f"{name}.safetensors", _optimizer_tensors(optimizer))
    if ema is not None:
        write_tensors(folder / "ema.safetensors", ema.state())
    scaler = accelerator.scaler.state_dict() if accelerator.scaler is not None else None
    write_tensors(folder / "good.safetensors", good)
    header = {
        "format": FORMAT,
        "processes": accelerator.num_processes,
        "scaler": scaler,
        "stage": stage.state(),
    }
    write_text(folder / "progress.json", json.dumps(header | progress, indent=2) + "\n")


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as `index.key` -> tensor; its settings come from the configuration."""
    state = optimizer.state_dict()["state"]
    return {
        f"{i}.{key}": torch.as_tensor(value) for i, values in state.items() for key, value in values.items()
    }


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _load(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: damaged or missing ({error}); start the run anew with --force"
        ) from error
