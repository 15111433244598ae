"""What a cell of an image column refers to: encoded bytes, a file, or a member of a tar file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..runtime.regular import open_regular

TAIL = 64
"""Last bytes of a file in which `looks_truncated` searches for the end marker."""
_MARK = "\0"
"""Separates the parts of the path of a member. No path of a file contains it."""


def member_path(tar: str, name: str, offset: int, size: int) -> str:
    """Return a path for `size` bytes at `offset` of a tar file, which is not compressed."""
    return _MARK.join((tar, name, str(offset), str(size)))


def shown(path: str) -> str:
    """Return a path as messages show it: a member as `shard.tar:name`."""
    return ":".join(path.split(_MARK)[:2])


def content_of(cell: Any) -> Any:
    """Return the bytes or the path of a cell. `datasets` stores the mapping {bytes, path}."""
    if isinstance(cell, Mapping):
        cell = cell.get("bytes") or cell.get("path")
    return str(cell) if isinstance(cell, Path) else cell or b""


def read_cell(cell: Any) -> bytes:
    """Return the encoded bytes of an image. Raises OSError."""
    content = content_of(cell)
    if not isinstance(content, str):
        return bytes(content)
    file, start, size = _range(content)
    with open_regular(file) as opened:  # an open file would have to be closed
        opened.seek(start)
        return opened.read() if size is None else opened.read(size)


def read_ends(cell: Any, head: int) -> tuple[bytes, bytes, int]:
    """Return the first `head` and the last `TAIL` bytes of an image, and its size in bytes. Raises OSError."""
    content = content_of(cell)
    if not isinstance(content, str):
        data = bytes(content)
        return data[:head], data[-TAIL:], len(data)
    file, start, size = _range(content)
    with open_regular(file) as opened:
        size = os.fstat(opened.fileno()).st_size if size is None else size
        opened.seek(start)
        first = opened.read(min(head, size))
        tail = min(TAIL, size)
        opened.seek(start + size - tail)
        return first, opened.read(tail), size


def size_of(path: str) -> int:
    """Return the bytes of a file or of a member. Raises OSError."""
    size = _range(path)[2]
    return os.stat(path).st_size if size is None else size


def _range(path: str) -> tuple[str, int, int | None]:
    """The file that holds a path, the offset in it, and the bytes; None for a whole file."""
    file, *member = path.split(_MARK)
    return (file, int(member[1]), int(member[2])) if member else (file, 0, None)
