"""Image files to compressed files, and back to PNGs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ...data.decode import load_image
from ...errors import ConfigError, DataError
from ...pretrained import whole_file
from ...runtime.regular import open_regular
from ..files import check_files, reconstruction_files
from ..models import Models
from ..png import write_png
from ..request import Progress
from .compress import compress, decompress
from .file import Compressed

SUFFIX = ".imgtf"
LoadModels = Callable[[str, str], Models]
"""Loads the models in a precision on a kind of device."""
Files = list[tuple[Path, bytes, Compressed]]
"""Compressed files as they were named, also twice: their bytes and what their headers say."""


def output_files(inputs: Sequence[Path], out: Path, suffix: str, force: bool) -> list[Path]:
    """Return the file of each input: `out` for one, `out/NAME` with the suffix for several.

    Raises:
        ConfigError: a file exists, without `force`; the folder cannot be written; or `out` has another suffix.
    """
    several = len(inputs) > 1 or out.is_dir()
    files = [f.with_suffix(suffix) for f in reconstruction_files(inputs, out)] if several else [out]
    if not several and suffix == ".png" and out.suffix.lower() != suffix:
        raise ConfigError(f"{out}: the result is a PNG image; name a file that ends with .png")
    check_files(files, force)
    return files


def compress_files(
    models: Models, images: Sequence[Path], files: Sequence[Path], progress: Progress, **given: Any
) -> list[dict[str, Any]]:
    """Compress image files and return a row about each. Nothing is written where an image cannot be read.

    Args:
        given: keyword arguments of `compress`.
    """
    for image in images:
        load_image(str(image), str(image))
    rows = []
    for image, file in zip(images, files, strict=True):
        data = compress(models, image, progress=progress, **given)
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(file) as temporary:
            temporary.write_bytes(data)
        rows.append(_row(file, data))
    return rows


def read_files(paths: Sequence[Path]) -> Files:
    """Read compressed files, before any model is loaded.

    Raises:
        DataError: `compress` did not write one of them, or it is truncated.
    """
    data = [(path, _content(path)) for path in paths]
    return [(path, own, Compressed.from_bytes(own, str(path))) for path, own in data]


def _content(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            return file.read()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error


def decompress_files(
    load: LoadModels, files: Files, images: Sequence[Path], start: Callable[[int], Progress]
) -> None:
    """Decompress files to PNGs, one after the other.

    Args:
        start: called with the number of codes of each image; returns what is called after every code.
    """
    loaded: dict[tuple[str, str], Models] = {}
    for (path, data, header), image in zip(files, images, strict=True):
        way = header.precision, header.device
        if way not in loaded:
            loaded = {way: load(*way)}
        progress = start(loaded[way].prior.config.tokens)
        decoded = decompress(loaded[way], data, where=str(path), progress=progress)
        image.parent.mkdir(parents=True, exist_ok=True)
        write_png(decoded, image)


def _row(file: Path, data: bytes) -> dict[str, Any]:
    """Return the sizes of a compressed file."""
    read = Compressed.from_bytes(data)
    height, width = read.size
    return {
        "file": str(file),
        "bytes": len(data),
        "header_bytes": len(data) - len(read.payload),
        "bits_per_pixel": 8 * len(data) / (height * width),
    }
