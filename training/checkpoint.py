"""The training state that a run resumes from: weights, EMA, optimizers, random generators, progress. No pickle.

A state is a folder `step-00000500/`. It is written under another name, flushed to the disk and renamed when complete:
a run that is killed while saving keeps the previous one.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ..errors import CheckpointError
from ..pretrained import load_tensors, read_json, write_tensors, write_text
from ..runtime.durable import TEMPORARY, link_or_copy, publish_folder, remove_folder, sync
from .agreement import Agreement
from .ema import EMA
from .optimizers import MUON
from .sharding import like, load_whole, whole
from .snapshot import load_optimizer, optimizer_tensors
from .stage import Stage
from .states import keep_newest, state_path

logger = logging.getLogger("imgtf")

FORMAT = 4
HEADER = ("format", "processes", "scaler", "stage", "step", "best")
"""Keys of `progress.json`."""
BEST_FILE = "best.safetensors"
"""In a state: the best weights at that step, where there are some."""


@dataclass(frozen=True)
class Progress:
    """The loop's own part of the training state."""

    step: int
    best: dict[str, Any]
    """{"step", "metrics"} of the saved weights."""
    sums: dict[str, Tensor]
    """Metrics of this process since the last log line (`RunningMeans.tensors`)."""
    snapshot: dict[str, Tensor]
    """Weights for a rollback (see `take_snapshot`), or {}."""
    guard: dict[str, Tensor] = field(default_factory=dict)
    """What the guard of the updates remembers."""


def save_state(
    folder: Path,
    stage: Stage,
    ema: EMA | None,
    accelerator: Accelerator,
    progress: Progress,
    *,
    keep: int = 1,
    best: Path | None = None,
    agreement: Agreement | None = None,
) -> None:
    """Save the state of all processes as `folder/step-N` (N from `progress`), then delete older states.

    Args:
        keep: number of states to keep.
        best: file of the best weights, which become part of the state.

    Raises:
        CheckpointError: a file cannot be written, in any process. The previous states are kept.
    """
    target = state_path(folder, progress.step)
    temporary = target.with_suffix(TEMPORARY)
    agreement, main = agreement or Agreement(), accelerator.is_main_process
    what, kept = f"{target}: the training state", "the previous state is kept"

    shared = _shared_tensors(stage, ema, keep=main)

    def own() -> None:
        files = _write_process(temporary, stage, accelerator.process_index, progress)
        if main:
            files += _write_shared(temporary, stage, shared, accelerator, progress, best)
        for file in files:
            sync(file)

    def finish() -> None:
        if temporary.exists():  # not after a first try that only failed later
            remove_folder(target)
            publish_folder(temporary, target)
        keep_newest(folder, keep)

    try:
        agreement.write(what, (lambda: _new_folder(temporary)) if main else None, kept)
        agreement.write(what, own, kept)
        agreement.write(what, finish if main else None, kept)
    finally:  # nothing is there any more once the state has its name
        if main:
            shutil.rmtree(temporary, ignore_errors=True)


def load_state(state: Path, stage: Stage, ema: EMA | None, accelerator: Accelerator) -> Progress:
    """Restore everything from a state folder.

    With another number of processes than the one that saved it, weights, optimizers and the order of the data are the
    same, and on a CPU the random numbers; the metrics since the last log line are lost.

    Raises:
        CheckpointError: a file is damaged, or does not fit this model, or it is of another optimizer.
    """
    header = _read_header(state)
    _check_optimizer(state, stage)
    for name, module in stage.trained_modules().items():
        _load_module(module, state / f"{name}.safetensors")
    for name, optimizer in stage.optimizers().items():
        load_optimizer(optimizer, _load(state / f"{name}.safetensors"))
    if ema is not None:
        averages = _load(state / "ema.safetensors")
        for name, average in ema.state().items():
            average.copy_(like(averages[name], average))
    if accelerator.scaler is not None and header["scaler"]:
        accelerator.scaler.load_state_dict(header["scaler"])
    sums = _load_process(state, stage, accelerator, header)
    snapshot, guard = (_load(state / f"{name}.safetensors") for name in ("snapshot", "guard"))
    return Progress(header["step"], header["best"], sums, snapshot, guard)


def _check_optimizer(state: Path, stage: Stage) -> None:
    """Raise CheckpointError where the state was saved by a run with another --optimizer."""
    saved, own = (
        "muon" if muon else "adamw"
        for muon in ((state / f"{MUON}.safetensors").exists(), MUON in stage.optimizers())
    )
    if saved != own:
        raise CheckpointError(
            f"{state}: saved by a run with --optimizer {saved}, which cannot go on with {own}: resume with "
            f"--optimizer {saved}, or start the run again with --force"
        )


def _load_process(
    state: Path, stage: Stage, accelerator: Accelerator, header: dict[str, Any]
) -> dict[str, Tensor]:
    """Restore what differs between the processes; return the metrics since the last log line."""
    rank, saved = accelerator.process_index, header["processes"]
    tensors = _load(state / f"stage-{min(rank, saved - 1)}.safetensors")
    if saved != accelerator.num_processes:
        tensors |= stage.merged(_load(state / f"stage-{number}.safetensors") for number in range(saved))
    stage.load_state(header["stage"], tensors)
    numbers = _load(state / f"random-{min(rank, saved - 1)}.safetensors")
    if rank >= saved:  # the CPU's generator is the same in all processes, a further GPU keeps its own
        numbers.pop("cuda", None)
    set_random_state(numbers)
    if saved != accelerator.num_processes:
        logger.info(
            "%s: saved by %d processes, resumed with %d: the same images at the same steps, not the same bits",
            state, saved, accelerator.num_processes,
        )  # fmt: skip
        return {}
    sums = _load(state / f"sums-{rank}.safetensors")
    return {name: total.to(accelerator.device) for name, total in sums.items()}


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


def _new_folder(folder: Path) -> None:
    """Make an empty folder. The folder around its parent must be there: one that was removed is not made again."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(exist_ok=True)
    folder.mkdir()


def _read_header(state: Path) -> dict[str, Any]:
    header = read_json(state / "progress.json")
    if header.get("format") != FORMAT:
        raise CheckpointError(f"{state}: saved by another version of imgtf; start the run again with --force")
    if missing := [key for key in HEADER if key not in header]:
        raise CheckpointError(
            f"{state / 'progress.json'}: damaged ({', '.join(missing)} is missing); start the run again with --force"
        )
    return header


def _write_process(folder: Path, stage: Stage, rank: int, progress: Progress) -> list[Path]:
    """Write what differs between the processes; return the files."""
    parts = {"random": random_state(), "stage": stage.tensors(), "sums": progress.sums}
    return _write({folder / f"{name}-{rank}.safetensors": tensors for name, tensors in parts.items()})


def _write_shared(
    folder: Path,
    stage: Stage,
    tensors: dict[str, dict[str, Tensor]],
    accelerator: Accelerator,
    progress: Progress,
    best: Path | None,
) -> list[Path]:
    """Write what is the same in all processes, with the result of `_shared_tensors`; return the files."""
    parts = tensors | {"snapshot": progress.snapshot, "guard": progress.guard}
    files = _write({folder / f"{name}.safetensors": tensors for name, tensors in parts.items()})
    if best is not None:
        (folder / BEST_FILE).unlink(missing_ok=True)  # of a try before
        link_or_copy(best, folder / BEST_FILE)
    scaler = accelerator.scaler.state_dict() if accelerator.scaler is not None else None
    values = (FORMAT, accelerator.num_processes, scaler, stage.state(), progress.step, progress.best)
    text = json.dumps(dict(zip(HEADER, values, strict=True)), indent=2)
    write_text(folder / "progress.json", text + "\n")
    return [*files, folder / "progress.json"]


def _shared_tensors(stage: Stage, ema: EMA | None, keep: bool) -> dict[str, dict[str, Tensor]]:
    """Return the whole tensors of the run by file: to the processes that `keep` them, but all take part."""
    parts: dict[str, Mapping[str, Tensor]] = {
        name: module.state_dict() for name, module in stage.trained_modules().items()
    }
    parts |= {name: optimizer_tensors(optimizer) for name, optimizer in stage.optimizers().items()}
    if ema is not None:
        parts["ema"] = ema.state()
    return {name: whole(tensors, keep=keep) for name, tensors in parts.items()}


def _load_module(module: nn.Module, path: Path) -> None:
    if any(isinstance(parameter, DTensor) for parameter in module.parameters()):
        load_whole(module, _load(path))
    else:
        load_tensors(module, path)


def _write(parts: dict[Path, dict[str, Tensor]]) -> list[Path]:
    for file, tensors in parts.items():
        write_tensors(file, tensors)
    return list(parts)


def _load(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: damaged or missing ({error}); start the run again with --force"
        ) from error
