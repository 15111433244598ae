"""Files and folders that survive a kill, a power cut and a full disk: written aside, flushed, renamed."""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

logger = logging.getLogger("imgtf")
T = TypeVar("T")

TEMPORARY = ".tmp"
"""Suffix of files and folders that are not complete."""
REMOVED = ".old" + TEMPORARY
"""Suffix of folders that are being removed."""
PAUSES = (1.0, 5.0)
"""Seconds before the second and the third try of `retried`."""
PASSING = frozenset(
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EIO", "ESTALE", "EAGAIN", "ETIMEDOUT", "EBUSY", "EREMOTEIO")
    if hasattr(errno, name)
)
"""Errors that may pass: a full disk or quota, a network disk that is away for a moment."""


@contextmanager
def whole_file(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path, renamed to `path` after the block; removed after an error.

    Args:
        durable: flush file and folder, so that the file also survives a power cut. That takes milliseconds.
    """
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        yield temporary
        if durable:
            sync(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync(path.parent)


def sync(path: Path) -> None:
    """Flush a file or the names in a folder to the disk. Windows flushes no folders."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish_folder(temporary: Path, target: Path) -> None:
    """Give a complete folder its name, which must be free. The files in it are flushed already."""
    sync(temporary)
    temporary.rename(target)
    sync(target.parent)


def remove_folder(folder: Path) -> None:
    """Remove a folder; at no time is a part of it left under its name. A missing one is no error."""
    if not folder.exists():
        return
    aside = folder.with_name(folder.name + REMOVED)
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    shutil.rmtree(aside)


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, or a flushed copy where the disk has no hard links.

    A file that is only ever replaced by renaming keeps its contents under the second name.
    """
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
        sync(target)


def retried(action: Callable[[], T], what: str) -> T:
    """Call `action`, and call it again after a pause where its error may pass. Each pause is a line in the log.

    Args:
        what: is written, for the log.

    Raises:
        Exception: that of the last try.
    """
    for pause in PAUSES:
        try:
            return action()
        except Exception as error:
            if number_of(error) not in PASSING:
                raise
            logger.warning("%s: cannot be written (%s); next try in %g s", what, reason(error), pause)
            time.sleep(pause)
    return action()


def number_of(error: BaseException) -> int | None:
    """Return the errno of an error, also of one of safetensors, which has it in its text."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


def reason(error: BaseException) -> str:
    """Return the system's words for an error, or its own."""
    number = number_of(error)
    return os.strerror(number) if number else str(error)
