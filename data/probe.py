"""Channels, bit depth and size of a data set, found from the headers of a sample of its images."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ..errors import DataError
from .decode import BadImage
from .image import GREY_MODES, is_deep
from .source import ImageSource

PROBES = 64
"""Images in the sample: evenly spaced rows, without unreadable ones."""


def count_channels(source: ImageSource, probes: int = PROBES) -> int:
    """Return 1 if every sampled image has a grey mode, else 3."""
    return 1 if all(image.mode in GREY_MODES for image in _sample(source, probes)) else 3


def bit_depth(source: ImageSource, probes: int = PROBES) -> int:
    """Return 16 if any sampled image has more than 8 bits per channel, else 8."""
    return 16 if any(is_deep(image) for image in _sample(source, probes)) else 8


def smallest_side(source: ImageSource, probes: int = PROBES) -> int:
    """Return the shortest side of the sampled images, in pixels."""
    return min(min(image.size) for image in _sample(source, probes))


def _sample(source: ImageSource, probes: int) -> list[Image.Image]:
    images, first = [], None
    for row in np.linspace(0, len(source) - 1, min(probes, len(source))).astype(int).tolist():
        try:
            images.append(source.header(row))
        except BadImage as error:
            first = first or error
    if not images:
        raise DataError(f"{source.name}: no image can be read" + (f" ({first})" if first else ""))
    return images
