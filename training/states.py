"""The folder of the saved states: `step-00000500/` is complete, `step-00000500.tmp/` is not."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from ..errors import CheckpointError
from ..runtime.durable import TEMPORARY, remove_folder

logger = logging.getLogger("imgtf")


def states(folder: Path) -> list[Path]:
    """Return the complete states in `folder`, from old to new."""
    found = (p for p in folder.glob("step-*") if p.name.removeprefix("step-").isdecimal() and p.is_dir())
    return sorted(found, key=step_of)


def latest_state(folder: Path) -> Path | None:
    """Return the newest complete state in `folder`, or None."""
    return next(reversed(states(folder)), None)


def find_state(folder: Path, step: int | None = None) -> Path:
    """Return the state of a step, or the newest one for None.

    Raises:
        CheckpointError: there is none; the message lists those there are.
    """
    there = states(folder)
    if not there:
        raise CheckpointError(f"{folder.parent}: no saved state to resume; start without --resume")
    wanted = [state for state in there if step in (None, step_of(state))]
    if not wanted:
        steps = ", ".join(str(step_of(state)) for state in there)
        raise CheckpointError(
            f"{folder.parent}: no saved state of step {step}; there are states of steps {steps} "
            f"(--keep-states keeps more)"
        )
    return wanted[-1]


def state_path(folder: Path, step: int) -> Path:
    """Return the name of the state of a step."""
    return folder / f"step-{step:08d}"


def step_of(state: Path) -> int:
    """Return the step of a state, from its name."""
    return int(state.name.removeprefix("step-"))


def keep_newest(folder: Path, count: int) -> None:
    """Remove all states but the newest ones."""
    for old in states(folder)[:-count]:
        remove_folder(old)


def drop_later(folder: Path, step: int) -> None:
    """Remove the states after a step, which the run that goes on from there will write again; log their steps."""
    later = [state for state in states(folder) if step_of(state) > step]
    for state in later:
        remove_folder(state)
    if later:
        steps = ", ".join(str(step_of(state)) for state in later)
        logger.info(
            "from step %d on: the states of steps %s and the log lines after it are dropped", step, steps
        )


def remove_unfinished(folders: Iterable[Path], more: Iterable[Path] = ()) -> None:
    """Remove what a killed run left half-written in the folders, and `more`, with a line in the log."""
    found = [path for path in more if path.exists()]
    found += [path for folder in folders for path in sorted(folder.glob(f"*{TEMPORARY}"))]
    for path in found:
        if path.is_dir():
            remove_folder(path)
        else:
            path.unlink()
    if found:
        logger.info("removed what a killed run left half-written: %s", ", ".join(map(str, found)))
