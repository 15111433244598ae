"""One training run at a time in a model folder: a lock of the operating system, which a dead process does not hold."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import CheckpointError
from .agreement import Agreement

LOCK_FILE = "run.lock"
HOLDER_FILE = "holder.json"
"""Who holds the lock. Opening the lock file may empty it, so this is another file."""


@contextmanager
def only_run(model: Path, main: bool, agreement: Agreement | None = None) -> Iterator[None]:
    """Hold the lock of a model folder, `training/run.lock`, within the block. The main process holds it for all.

    Commands that only read take no lock.

    Raises:
        CheckpointError: another run holds it; the message names its process. Raised in all processes.
    """
    folder = model / "training"
    lock = FileLock(folder / LOCK_FILE, timeout=0)
    holder = _take(lock, folder) if main else ""
    if (agreement or Agreement()).any(bool(holder)):
        raise CheckpointError(
            f"{model}: another training run is at work there{holder}: wait for it or stop it, "
            f"or name another folder with --model"
        )
    try:
        yield
    finally:
        if main:
            _leave(lock, folder)


def _take(lock: FileLock, folder: Path) -> str:
    """Take the lock; return "" or, where it is taken, by whom."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire()
    except Timeout:
        return _holder(folder / HOLDER_FILE)
    since = datetime.now().astimezone().isoformat(" ", "seconds")
    mine = {"process": os.getpid(), "host": socket.gethostname(), "since": since}
    (folder / HOLDER_FILE).write_text(json.dumps(mine) + "\n", encoding="utf-8")
    return ""


def _leave(lock: FileLock, folder: Path) -> None:
    """Release the lock. A run that wrote nothing leaves no folder either."""
    (folder / HOLDER_FILE).unlink(missing_ok=True)
    if folder.is_dir() and [path.name for path in folder.iterdir()] == [LOCK_FILE]:
        (folder / LOCK_FILE).unlink()
    lock.release()
    with suppress(OSError):  # not empty
        folder.rmdir()
        folder.parent.rmdir()


def _holder(file: Path) -> str:
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
        return f" (process {held['process']} on {held['host']}, since {held['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return " (it has just started)"
