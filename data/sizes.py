"""The size that fits a data set, robust to outliers, and the images that it does not fit."""

from __future__ import annotations

import numpy as np

from ..options import Size, sides_of
from .image import largest_crop
from .probe import Header, Headers

REACHED = 0.9
"""Fraction of the images that reach the typical side."""
SAME_ASPECT = 1.1
"""Ratio of two aspects up to which they count as the same."""
MAX_ASPECT = 4.0
"""Longer images lose three quarters or more of their pixels to the crop."""


def typical_side(headers: Headers, shape: Size = 1) -> int:
    """Return the side that at least 90 % of the images reach, and never less than half of the median.

    A few small images do not decide: they are enlarged.

    Args:
        shape: of the crop. The side is the shorter one of the largest crop; of a square it is the image's own.
    """
    sides = np.sort([int(min(largest_crop((h.width, h.height), shape))) for h in headers.found])
    reached = int(sides[int(len(sides) * (1 - REACHED))])
    return max(reached, int(np.median(sides)) // 2)


def common_aspect(headers: Headers) -> float | None:
    """Return the width / height that at least 90 % of the images have, to within 10 %; None if there is none."""
    aspects = np.array([header.width / header.height for header in headers.found])
    middle = float(np.median(aspects))
    near = np.maximum(aspects / middle, middle / aspects) <= SAME_ASPECT
    return middle if near.mean() >= REACHED else None


def fitting_size(side: int, factor: int) -> int:
    """Return the largest multiple of the network's factor that is no larger than a side; 0 if there is none."""
    return side // factor * factor


def smaller_than(headers: Headers, size: Size) -> list[Header]:
    """Return the images that a size does not fit into, the smallest first. They are enlarged."""
    height, width = sides_of(size)
    small = (h for h in headers.found if h.height < height or h.width < width)
    return sorted(small, key=lambda h: min(h.height / height, h.width / width))


def extreme_shapes(headers: Headers, shape: Size = 1) -> list[Header]:
    """Return the images more than 4 times as long or as wide as a shape, the longest first.

    Only their centre is used. For squares these are the images longer than 4:1.
    """
    chosen = (h for h in headers.found if _stretch(h, shape) > MAX_ASPECT)
    return sorted(chosen, key=lambda h: -_stretch(h, shape))


def _stretch(header: Header, shape: Size) -> float:
    """How many times as long as a shape an image is; at least 1."""
    height, width = sides_of(shape)
    sides = header.width * height, header.height * width
    return max(sides) / min(sides)
