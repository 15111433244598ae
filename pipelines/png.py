"""Pictures to disk beside the work that makes the next ones."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from PIL import Image

from ..errors import ImgtfError
from ..pretrained import whole_file

THREADS = 2
MOST_WAITING = 64
"""Pictures that may wait to be written; then sampling waits for the disk."""


class PngWriter:
    """Within the block pictures are written by threads; at its end all are on disk.

    A file is there whole or not at all. What goes wrong in a thread is raised by the next `save`, or at the end. When
    the block ends by an error (or Ctrl-C), pictures under way are finished and waiting ones are left out.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="png")
        self._waiting: deque[Future[None]] = deque()

    def save(self, picture: Image.Image, path: Path) -> None:
        """Has the picture written as PNG.

        Raises:
            ImgtfError: when an earlier one could not be.
        """
        while self._waiting and (self._waiting[0].done() or len(self._waiting) >= MOST_WAITING):
            self._waiting.popleft().result()
        self._waiting.append(self._threads.submit(write_png, picture, path))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(wait=True, cancel_futures=kind is not None)
        while kind is None and self._waiting:
            self._waiting.popleft().result()


def write_png(picture: Image.Image, path: Path) -> None:
    """Writes a picture that is there whole or not at all.

    Raises:
        ImgtfError: when the disk is full or the folder gone.
    """
    try:
        with whole_file(path) as temporary:
            picture.save(temporary, format="PNG")
    except OSError as error:
        reason = error.strerror or error
        raise ImgtfError(
            f"{path}: cannot be written ({reason}); make room, or name another folder"
        ) from error
