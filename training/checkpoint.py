"""The training state that a run resumes from: weights, EMA, optimizers, random generators, progress. No pickle.

A state is a folder `step-00000500/`, renamed into place when complete: a run that is killed while saving
keeps the previous one.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
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

logger = logging.getLogger("imgtf")

FORMAT = 3
HEADER = ("format", "processes", "scaler", "stage", "step", "best", "counts")
"""Keys of `progress.json`."""


def latest_state(folder: Path) -> Path | None:
    """Return the newest complete state in `folder`, or None."""
    states = sorted(p for p in folder.glob("step-*") if p.is_dir() and p.suffix != ".tmp")
    return states[-1] if states else None


@dataclass(frozen=True)
class Progress:
    """The loop's own part of the training state."""

    step: int
    best: dict[str, Any]
    """{"step", "metrics"} of the saved weights."""
    counts: dict[str, int]
    """Number of steps by metric since the last log line."""
    sums: dict[str, Tensor]
    """Sums over these steps in this process, by metric."""
    snapshot: dict[str, Tensor]
    """Weights for a rollback (see `take_snapshot`), or {}."""


def save_state(
    folder: Path, stage: Stage, ema: EMA | None, accelerator: Accelerator, progress: Progress
) -> None:
    """Save the state of all processes as `folder/step-N` (N from `progress`), then delete older states.

    Raises:
        CheckpointError: a file cannot be written. The previous state is kept.
    """
    target = folder / f"step-{progress.step:08d}"
    temporary = target.with_suffix(".tmp")
    if accelerator.is_main_process:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    accelerator.wait_for_everyone()
    try:
        _write_process(temporary, stage, accelerator.process_index, progress)
        if accelerator.is_main_process:
            _write_shared(temporary, stage, ema, accelerator, progress)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(
            f"{target}: cannot save the training state ({error}); the previous state is kept"
        ) from error
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        _replace(target, temporary)
    accelerator.wait_for_everyone()


def load_state(state: Path, stage: Stage, ema: EMA | None, accelerator: Accelerator) -> Progress:
    """Restore everything from a state folder.

    With another number of processes than the one that saved it, weights, optimizers and the order of the data are
    the same; random numbers and the metrics since the last log line are not.

    Raises:
        CheckpointError: a file is damaged, or does not fit this model.
    """
    header = _read_header(state)
    for name, module in stage.trained_modules().items():
        load_tensors(module, state / f"{name}.safetensors")
    for name, optimizer in stage.optimizers().items():
        _load_optimizer(optimizer, _load(state / f"{name}.safetensors"))
    if ema is not None:
        averages = _load(state / "ema.safetensors")
        for name, average in ema.state().items():
            average.copy_(averages[name])
    if accelerator.scaler is not None and header["scaler"]:
        accelerator.scaler.load_state_dict(header["scaler"])
    counts, sums = _load_process(state, stage, accelerator, header)
    snapshot = _load(state / "snapshot.safetensors")
    return Progress(header["step"], header["best"], counts, sums, snapshot)


def _load_process(
    state: Path, stage: Stage, accelerator: Accelerator, header: dict[str, Any]
) -> tuple[dict[str, int], dict[str, Tensor]]:
    """Restore what differs between the processes; return counts and sums of the metrics since the last log line."""
    rank, saved = accelerator.process_index, header["processes"]
    stage.load_state(header["stage"], _load(state / f"stage-{min(rank, saved - 1)}.safetensors"))
    if rank < saved:  # further processes keep the random state that their seed gave them
        set_random_state(_load(state / f"random-{rank}.safetensors"))
    if saved != accelerator.num_processes:
        logger.info(
            "%s: saved by %d processes, resumed with %d: the same batches, other random numbers",
            state, saved, accelerator.num_processes,
        )  # fmt: skip
        return {}, {}
    sums = _load(state / f"sums-{rank}.safetensors")
    return header["counts"], {name: total.to(accelerator.device) for name, total in sums.items()}


def take_snapshot(stage: Stage, ema: EMA | None) -> dict[str, Tensor]:
    """Return copies of all weights, their EMA and the optimizer states on the CPU, as `section/name`."""
    sections: dict[str, Mapping[str, Tensor]] = {
        k: m.state_dict() for k, m in stage.trained_modules().items()
    }
    sections |= {name: _optimizer_tensors(optimizer) for name, optimizer in stage.optimizers().items()}
    if ema is not None:
        sections["ema"] = ema.state()
    return {
        f"{section}/{name}": tensor.detach().to("cpu", copy=True)
        for section, tensors in sections.items()
        for name, tensor in tensors.items()
    }


@torch.no_grad()
def restore_snapshot(snapshot: dict[str, Tensor], stage: Stage, ema: EMA | None) -> None:
    """Load the result of `take_snapshot`, which can be loaded more than once."""

    def section(wanted: str) -> dict[str, Tensor]:
        return {k.removeprefix(f"{wanted}/"): v for k, v in snapshot.items() if k.startswith(f"{wanted}/")}

    for name, module in stage.trained_modules().items():
        module.load_state_dict(section(name))
    for name, optimizer in stage.optimizers().items():
        # An optimizer updates the given tensors in place.
        _load_optimizer(optimizer, {k: v.clone() for k, v in section(name).items()})
    if ema is not None:
        for name, average in section("ema").items():
            ema.state()[name].copy_(average)


def random_state() -> dict[str, Tensor]:
    """Return the states of this process's global random generators."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Tensor]) -> None:
    """Restore the result of `random_state`."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def _read_header(state: Path) -> dict[str, Any]:
    header = read_json(state / "progress.json")
    if header.get("format") != FORMAT:
        raise CheckpointError(f"{state}: saved by another version of imgtf; start the run again with --force")
    if missing := [key for key in HEADER if key not in header]:
        raise CheckpointError(
            f"{state / 'progress.json'}: damaged ({', '.join(missing)} is missing); start the run again with --force"
        )
    return header


def _write_process(folder: Path, stage: Stage, rank: int, progress: Progress) -> None:
    """Write what differs between the processes."""
    write_tensors(folder / f"random-{rank}.safetensors", random_state())
    write_tensors(folder / f"stage-{rank}.safetensors", stage.tensors())
    write_tensors(folder / f"sums-{rank}.safetensors", progress.sums)


def _write_shared(
    folder: Path, stage: Stage, ema: EMA | None, accelerator: Accelerator, progress: Progress
) -> None:
    """Write what is the same in all processes."""
    for name, module in stage.trained_modules().items():
        write_tensors(folder / f"{name}.safetensors", module.state_dict())
    for name, optimizer in stage.optimizers().items():
        write_tensors(folder / f"{name}.safetensors", _optimizer_tensors(optimizer))
    if ema is not None:
        write_tensors(folder / "ema.safetensors", ema.state())
    write_tensors(folder / "snapshot.safetensors", progress.snapshot)
    scaler = accelerator.scaler.state_dict() if accelerator.scaler is not None else None
    values = (
        FORMAT, accelerator.num_processes, scaler, stage.state(), progress.step, progress.best, progress.counts,
    )  # fmt: skip
    text = json.dumps(dict(zip(HEADER, values, strict=True)), indent=2)
    write_text(folder / "progress.json", text + "\n")


def _replace(target: Path, temporary: Path) -> None:
    """Put the new state in place and delete all others."""
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)
    for old in target.parent.glob("step-*"):
        if old != target:
            shutil.rmtree(old)


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as `index.key` -> tensor. Its settings come from the configuration."""
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
            f"{path}: damaged or missing ({error}); start the run again with --force"
        ) from error
