"""Files that can be read to their end: no pipes, no devices. No heavy imports."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

NOT_REGULAR = "a pipe or a device, not a file"


def check_regular(path: Path) -> None:
    """Raise OSError for a pipe or a device, whose reading may never end. A missing file is no error here."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError(NOT_REGULAR)


def open_regular(path: str | Path) -> BinaryIO:
    """Return an open file. Raises OSError, also for a pipe or a device."""
    nonblock = getattr(os, "O_NONBLOCK", 0)  # else the opening of a pipe waits for a writer
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | nonblock))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(NOT_REGULAR)
    return file
