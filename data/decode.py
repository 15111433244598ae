"""Image files: bytes or a path -> a Pillow image, or a `BadImage` with the file and the reason."""

from __future__ import annotations

import io
import warnings
from functools import cache
from importlib import import_module
from typing import Any

from PIL import Image, UnidentifiedImageError

from ..errors import DataError
from .cells import read_cell, read_ends
from .image_bytes import looks_truncated, pcx_is_truncated, without_text

HEAD = 2**16
"""Bytes that hold the header of most files."""
TRUNCATED = "imgtf_truncated"
"""Key in `Image.info`: the file may be truncated (see `looks_truncated`)."""
PACKAGES = {"pillow-heif": (b"ftyphei", b"ftypmif1"), "pillow-jxl-plugin": (b"\xff\x0a", b"JXL ")}
"""Packages of Pillow's plugins -> how their files start, some after a length of four bytes."""


PHOTOMETRIC, YCBCR = 262, 6
"""Tag of a TIFF that names its colour space, and its value for YCbCr."""


class BadImage(DataError):
    """An image that cannot be read. `where`: its file or row. `why`: the reason."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"{where}: {why}")
        self.where, self.why = where, why

    def __reduce__(self) -> tuple[type[BadImage], tuple[str, str]]:
        return type(self), (self.where, self.why)  # by default, unpickling passes the message only


def open_image(cell: Any, where: str) -> Image.Image:
    """Read the header of an image: mode, size, format and number of frames are known, the pixels are not read.

    `info[TRUNCATED]` tells whether the file may be truncated.

    Args:
        cell: encoded bytes, a path, or the mapping {bytes, path} that `datasets` stores.

    Raises:
        BadImage: missing, empty, not an image, or too large (Pillow's bomb limit, 179 million pixels).
    """
    try:
        head, tail, size = read_ends(cell, HEAD)
        try:
            image = _open(head, where)
        except Exception:  # a longer header, or a format whose header is at the end
            image = _open(read_cell(cell), where)
        image.info[TRUNCATED] = looks_truncated(image.format, size, head, tail)
    except BadImage:
        raise
    except Exception as error:
        raise BadImage(where, why(error)) from error
    return image


def load_image(cell: Any, where: str, at_least: int | None = None) -> Image.Image:
    """Open and decode an image in the mode of its file. An animation gives its first frame.

    Args:
        at_least: shorter side needed, in pixels. A JPEG at least four times as large is decoded at 1/2, 1/4 or 1/8 of
            its size, never below twice this side, so that the resize after it still antialiases.

    Raises:
        BadImage: the image cannot be read, or is truncated.
    """
    try:
        image = _open(read_cell(cell), where)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if at_least is not None and image.format == "JPEG":
                image.draft(None, (2 * at_least, 2 * at_least))
            image = _loaded(image)
        if image.format == "PCX" and pcx_is_truncated(read_cell(cell)):
            raise BadImage(where, "image file is truncated")
    except BadImage:
        raise
    except Exception as error:
        raise BadImage(where, why(error)) from error
    return image


def _loaded(image: Any) -> Image.Image:
    """Decode an image. Pillow before 13 takes the three bytes of a pixel of an uncompressed YCbCr TIFF for four."""
    codecs = {(tile[0], tile[3][0]) for tile in image.tile} if image.format == "TIFF" else set()
    ycbcr = codecs == {("raw", "RGBX")} and image.tag_v2.get(PHOTOMETRIC) == YCBCR
    if ycbcr:
        image.tile = [tile._replace(args=("RGB", *tile[3][1:])) for tile in image.tile]
    image.load()
    decoded: Image.Image = image
    return Image.merge("YCbCr", decoded.split()) if ycbcr else decoded


def _open(data: bytes, where: str) -> Image.Image:
    if not data:
        raise BadImage(where, "the file is empty")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns above half the bomb limit and at unusual metadata
        try:
            return Image.open(io.BytesIO(without_text(data)))
        except UnidentifiedImageError:
            _register_plugins()
            package = next(
                (n for n, s in PACKAGES.items() if data.startswith(s) or data[4:].startswith(s)), None
            )
            try:
                return Image.open(io.BytesIO(data))
            except UnidentifiedImageError:
                if package is None:
                    raise
                raise BadImage(
                    where, f"Pillow reads it with a plugin only: pip install {package} (extra `formats`)"
                ) from None


@cache
def _register_plugins() -> None:
    """Register the installed plugins for HEIC and JPEG XL, which are imported when a file needs one."""
    for name in ("pillow_heif", "pillow_jxl"):
        try:
            plugin = import_module(name)
        except ImportError:
            continue
        getattr(plugin, "register_heif_opener", lambda: None)()


def why(error: Exception) -> str:
    """Return the reason why an image cannot be read, in one line."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image that Pillow can read"
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, IsADirectoryError):
        return "a folder, not an image"
    # Pillow's decoders raise many types at a damaged file: OSError, SyntaxError, ValueError, struct.error
    return " ".join(str(error).split()) or type(error).__name__
