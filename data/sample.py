"""A decoded sample of a data set: thumbnails, near-duplicates, and what only the pixels show.

N: decoded images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from .decode import BadImage
from .image import cropped, is_deep, plain
from .probe import Header, Headers, in_threads

MOST_IMAGES, FEWEST_IMAGES = 1000, 64
MOST_PIXELS = 3e8
"""Pixels of the sample, about 4 s of decoding on two cores."""
SIDE = 64
"""Side of a thumbnail in pixels."""
SMALL_SIDE = 16
"""Side of the images that near-duplicates are compared with."""
MAX_BITS = 4
"""Different bits of the 64 of a difference hash, up to which two images are compared."""
MAX_DIFFERENCE = 6.0
"""Mean difference of values in [0, 255] up to which two images are near-duplicates."""
MIN_CONTRAST = 4.0
"""Standard deviation of values below which images are flat, and all alike."""
BLOCK = 1024


@dataclass(frozen=True)
class Decoded:
    """One decoded image."""

    source: int
    """Which of the sources: 0 for training images, 1 for held-out images."""
    row: int
    thumbnail: Image.Image
    """Its centre square, L or RGB, at most `SIDE` px."""
    small: np.ndarray
    """The whole image, (16, 16, 3) float32 in [0, 255]."""
    hash: np.ndarray
    """Difference hash: whether each grey value is below its right neighbour, (64,) bool."""
    top: int
    """Largest value of a grey image of more than 8 bits, else 0."""
    is_grey: bool
    """Whether all channels are equal."""


@dataclass(frozen=True)
class Sample:
    """The decoded images, and those that could not be decoded."""

    images: tuple[Decoded, ...]
    broken: tuple[BadImage, ...]


def decode_sample(headers: Sequence[Headers], everything: bool = False) -> Sample:
    """Decode evenly spaced images of every source, or all of them."""
    found = [(number, header) for number, one in enumerate(headers) for header in one.found]
    count = len(found) if everything else min(len(found), _sample_size(found))
    rows = np.arange(count) * len(found) // max(count, 1)
    results = in_threads(
        lambda i: decode(headers, found[i][0], found[i][1].row), rows.tolist(), "decode sample"
    )
    return Sample(
        tuple(result for result in results if isinstance(result, Decoded)),
        tuple(result for result in results if isinstance(result, BadImage)),
    )


def decode(headers: Sequence[Headers], source: int, row: int) -> Decoded | BadImage:
    """Decode one image of a source."""
    try:
        image = headers[source].source.image(row, at_least=SIDE)
        top = int(np.asarray(image).max()) if is_deep(image) and image.mode != "F" else 0
        upright = _eight_bits(plain(image, 3, "white"))
    except BadImage as error:
        return BadImage(headers[source].source.where(row), error.why)
    grey = upright.convert("L")
    colour = upright.convert("RGB").resize((SMALL_SIDE, SMALL_SIDE), Image.Resampling.BOX)
    small = np.asarray(colour, np.float32)
    steps = np.asarray(grey.resize((9, 8), Image.Resampling.BOX), np.float32)
    thumbnail = cropped(upright, min(SIDE, *upright.size))
    return Decoded(
        source, row, thumbnail, small, (steps[:, :-1] < steps[:, 1:]).reshape(-1), top, _is_grey(thumbnail)
    )


def near_duplicates(images: Sequence[Decoded]) -> list[tuple[int, int]]:
    """Return pairs of images that look the same without being equal: another size, quality or format.

    Pairs of indices, the first below the second. Flat images are left out.
    """
    chosen = [i for i, image in enumerate(images) if image.small.std() >= MIN_CONTRAST]
    if len(chosen) < 2:
        return []
    signs = np.stack([images[i].hash for i in chosen]).astype(np.float32) * 2 - 1  # (N, 64)
    pairs = []
    for start in range(0, len(chosen), BLOCK):
        distances = (64 - signs[start : start + BLOCK] @ signs.T) / 2
        for a, b in np.argwhere(distances <= MAX_BITS).tolist():
            pairs.append((chosen[start + a], chosen[b]))
    return [(a, b) for a, b in pairs if a < b and _alike(images[a], images[b])]


def _alike(one: Decoded, other: Decoded) -> bool:
    difference = float(np.abs(one.small - other.small).mean())
    return difference <= MAX_DIFFERENCE and one.thumbnail.tobytes() != other.thumbnail.tobytes()


def _sample_size(found: Sequence[tuple[int, Header]]) -> int:
    pixels = np.median([header.width * header.height for _, header in found]) if found else 1
    return int(np.clip(MOST_PIXELS / max(pixels, 1), FEWEST_IMAGES, MOST_IMAGES))


def _eight_bits(image: Image.Image) -> Image.Image:
    """An image in mode F with values in [0, 1], as `plain` returns it for more than 8 bits, in 8 bits."""
    if image.mode != "F":
        return image
    return Image.fromarray((np.asarray(image) * 255).round().astype(np.uint8))


def _is_grey(image: Image.Image) -> bool:
    if image.mode == "L":
        return True
    pixels = np.asarray(image).astype(np.int16)
    return bool((pixels.max(2) - pixels.min(2)).max() <= 2)
