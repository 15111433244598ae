"""Headers of the images of a data set: sizes, modes and bit depths, and files that cannot be read.

N: images whose headers were read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image

from ..errors import DataError
from ..runtime.progress import Bar
from .decode import TRUNCATED, BadImage
from .image import GREY_MODES, is_deep, is_rotated
from .source import ImageSource

T = TypeVar("T")
R = TypeVar("R")
MOST_HEADERS = 20_000
"""Headers read of a larger data set: evenly spaced images."""
DECODED_PIXELS = 20e6
"""A data set of fewer pixels is decoded whole, which finds every broken image (about 0.3 s)."""
THREADS, BLOCK = 8, 32
"""Threads that read files, and files per task."""
MIN_FRACTION = 0.01
"""Fewer colour or 16-bit images than this do not decide about channels and bit depth."""


class Header(NamedTuple):
    """The header of one image."""

    row: int
    """Row of the source."""
    width: int
    height: int
    """Size in pixels, upright."""
    format: str
    """Pillow's name of the file format, or "" for pixels in memory."""
    mode: str
    """Pillow's mode, such as L or RGB."""
    bits: int
    """Bits per channel in the file: 1, 8, 16 or 32."""
    animated: bool
    """Whether the file has several frames or pages. The first one is used."""

    @property
    def side(self) -> int:
        """The shorter side."""
        return min(self.width, self.height)

    @property
    def aspect(self) -> float:
        """The longer side over the shorter side."""
        return max(self.width, self.height) / self.side


@dataclass(frozen=True)
class Headers:
    """Headers of a source, and the images that cannot be read."""

    source: ImageSource
    found: tuple[Header, ...]
    """(N) readable images, by row."""
    broken: tuple[tuple[int, BadImage], ...] = ()
    """Row and reason of every image that cannot be read."""
    total: int = 0
    """Images whose headers were read, with the broken ones."""

    @property
    def complete(self) -> bool:
        """Whether every image of the source was read."""
        return self.total == len(self.source)

    def sides(self) -> np.ndarray:
        """Return the shorter side of every image, (N,) int64."""
        return np.array([header.side for header in self.found], np.int64)

    def modes(self) -> Counter[str]:
        """Return the number of images by mode."""
        return Counter(header.mode for header in self.found)

    def readable(self) -> ImageSource:
        """Return the source without the broken images."""
        broken = [row for row, _ in self.broken]
        return replace(self.source, chosen=np.delete(self.source.chosen, broken)) if broken else self.source

    def images(self) -> int:
        """Return the number of readable images. An image with several captions has several rows and counts once."""
        splits = {split.name: split.images for split in self.source.findings.splits}
        broken = {error.where for _, error in self.broken}
        return splits.get(self.source.split, len(self.source)) - len(broken)

    def training_images(self) -> int:
        """Return the number of different images to train on; of a stream, about how many samples it has."""
        return self.images() if self.source.stream is None else self.source.expected

    def where(self, header: Header) -> str:
        """Return the file of an image with its size: `icon.png (5x5)`."""
        return f"{self.source.where(header.row)} ({header.width}x{header.height})"


def read_headers(source: ImageSource, everything: bool = False) -> Headers:
    """Read the headers of all images of a source, of `MOST_HEADERS` of a larger one.

    Files that end too early are decoded to be sure. So are all files of a small data set.

    Args:
        everything: read all headers and decode all images.

    Raises:
        DataError: none of the images can be read.
    """
    count = len(source) if everything else min(len(source), MOST_HEADERS)
    rows = (np.arange(count) * len(source) // max(count, 1)).tolist()
    results = in_threads(lambda row: _header(source, row), rows, f"headers {source.split}")
    small = sum(r.width * r.height for r in results if isinstance(r, Header)) <= DECODED_PIXELS
    if everything or small:
        results = in_threads(lambda result: _decoded(source, result), results, f"decode {source.split}")
    found = tuple(result for result in results if isinstance(result, Header))
    pairs = zip(rows, results, strict=True)
    broken = tuple((row, result) for row, result in pairs if isinstance(result, BadImage))
    if broken and not found:
        raise DataError(f"{source.name} {source.split}: no image can be read ({broken[0][1]})")
    return Headers(source, found, broken, count)


def in_threads(function: Callable[[T], R], values: Sequence[T], what: str) -> list[R]:
    """Return the results of a function that reads files, in order. `what` names the work in a bar."""
    blocks = [values[i : i + BLOCK] for i in range(0, len(values), BLOCK)]
    with ThreadPoolExecutor(THREADS) as threads, Bar(what, len(values), "image") as bar:
        results = []
        for block in threads.map(lambda b: [function(v) for v in b], blocks):
            results += block
            bar.update(len(block))
    return results


def count_channels(headers: Headers) -> int:
    """Return 3 if at least 1 % of the images have a mode with colour, else 1."""
    return 3 if colour_fraction(headers) >= MIN_FRACTION else 1


def colour_fraction(headers: Headers) -> float:
    """Return the fraction of images whose mode has colour."""
    modes = headers.modes()
    return 1 - sum(modes[mode] for mode in GREY_MODES) / modes.total()


def bit_depth(headers: Headers) -> int:
    """Return 16 if at least 1 % of the images have a grey mode of more than 8 bits, else 8."""
    deep = sum(header.bits > 8 and header.mode in GREY_MODES for header in headers.found)
    return 16 if deep / len(headers.found) >= MIN_FRACTION else 8


def used_bits(values: Iterable[int]) -> int:
    """Return the bits that the largest values of 16-bit images need, at least 8."""
    return max(8, int(max(values, default=0)).bit_length())


def _header(source: ImageSource, row: int) -> Header | BadImage:
    try:
        image = source.header(row)
        header = _describe(image, row)
        if image.info.get(TRUNCATED):
            source.image(row)
    except BadImage as error:
        return error
    return header


def _decoded(source: ImageSource, result: Header | BadImage) -> Header | BadImage:
    """The same result, or the error of an image that cannot be decoded."""
    if isinstance(result, Header):
        try:
            source.image(result.row, at_least=1)
        except BadImage as error:
            return error
    return result


def _describe(image: Image.Image, row: int) -> Header:
    width, height = reversed(image.size) if is_rotated(image) else image.size
    bits = 1 if image.mode == "1" else 16 if is_deep(image) or _raw_16_bits(image) else 8
    bits = 32 if image.mode in ("I", "F") and image.format != "PNG" else bits
    return Header(row, width, height, image.format or "", image.mode, bits, _is_animated(image))


def _is_animated(image: Image.Image) -> bool:
    if image.format == "MPO":  # a JPEG with a preview or a depth map
        return False
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # the second frame is beyond the part of the file that was read, or damaged
        return False


def _raw_16_bits(image: Image.Image) -> bool:
    """Whether Pillow will reduce 16 to 8 bits, as it does for colour."""
    tiles: Sequence[object] = getattr(image, "tile", ())
    return any(";16" in str(tile) for tile in tiles)
