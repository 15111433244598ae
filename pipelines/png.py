"""PNG files written by threads while the next images are sampled."""

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
MAX_WAITING = 64
"""Images that may wait to be written; with more, `save` blocks."""


class PngWriter:
    """Writes images in threads. At the end of the block all of them are on disk.

    Each file appears complete or not at all. An error in a thread is raised by the next `save`, or at the end. When the
    block ends with an error (or Ctrl-C), images that are being written are completed and waiting ones are dropped.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="png")
        self._waiting: deque[Future[None]] = deque()

    def save(self, image: Image.Image, path: Path) -> None:
        """Queue an image to be written as PNG.

        Raises:
            ImgtfError: an earlier image could not be written.
        """
        while self._waiting and (self._waiting[0].done() or len(self._waiting) >= MAX_WAITING):
            self._waiting.popleft().result()
        self._waiting.append(self._threads.submit(write_png, image, path))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(wait=True, cancel_futures=kind is not None)
        while kind is None and self._waiting:
            self._waiting.popleft().result()


def write_png(image: Image.Image, path: Path) -> None:
    """Write an image as a PNG file that appears complete or not at all.

    Raises:
        ImgtfError: the file cannot be written, for example because the disk is full.
    """
    try:
        with whole_file(path) as temporary:
            image.save(temporary, format="PNG")
    except OSError as error:
        reason = error.strerror or error
        raise ImgtfError(
            f"{path}: cannot be written ({reason}); free disk space, or name another folder"
        ) from error
