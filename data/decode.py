"""Image files: bytes or a path -> a Pillow image, or a `BadImage` with the file and the reason."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from ..errors import DataError


class BadImage(DataError):
    """An image that cannot be read. `where`: its file or row. `why`: the reason."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"{where}: {why}")
        self.where, self.why = where, why

    def __reduce__(self) -> tuple[type[BadImage], tuple[str, str]]:
        return type(self), (self.where, self.why)  # by default, unpickling passes the message only


def open_image(cell: Any, where: str) -> Image.Image:
    """Open an image without decoding its pixels: mode and size are known, the pixels may be damaged.

    Args:
        cell: encoded bytes, a path, or the mapping {bytes, path} that `datasets` stores.

    Raises:
        BadImage: missing, empty, not an image, or too large (Pillow's bomb limit, 179 million pixels).
    """
    try:
        data = _encoded(cell)
        if not data:
            raise BadImage(where, "the file is empty")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns above half the bomb limit and at unusual metadata
            return Image.open(io.BytesIO(data))
    except BadImage:
        raise
    except Exception as error:
        raise BadImage(where, _why(error)) from error


def load_image(cell: Any, where: str, at_least: int | None = None) -> Image.Image:
    """Open and decode an image in the mode of its file. An animation gives its first frame.

    Args:
        at_least: shorter side needed, in pixels. A JPEG at least four times as large is decoded at 1/2, 1/4 or 1/8 of
            its size, never below twice this side, so that the resize after it still antialiases.

    Raises:
        BadImage: the image cannot be read, or is truncated.
    """
    image = open_image(cell, where)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if at_least is not None and image.format == "JPEG":
                image.draft(None, (2 * at_least, 2 * at_least))
            image.load()
    except Exception as error:
        raise BadImage(where, _why(error)) from error
    return image


def _encoded(cell: Any) -> bytes:
    if isinstance(cell, Mapping):
        cell = cell.get("bytes") or cell.get("path") or b""
    if isinstance(cell, (str, Path)):
        return Path(cell).read_bytes()  # an open file would have to be closed
    return bytes(cell or b"")


def _why(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image that Pillow can read"
    if isinstance(error, FileNotFoundError):
        return "no such file"
    # Pillow's decoders raise many types at a damaged file: OSError, SyntaxError, ValueError, struct.error
    return (str(error) or type(error).__name__).splitlines()[0]
