"""The size that fits a data set, robust to outliers, and the images that it does not fit."""

from __future__ import annotations

import numpy as np

from .probe import Header, Headers

REACHED = 0.9
"""Fraction of the images that reach the typical side."""
MAX_ASPECT = 4.0
"""Longer images lose three quarters or more of their pixels to the square crop."""


def typical_side(headers: Headers) -> int:
    """Return the shorter side that at least 90 % of the images reach, and never less than half of the median.

    A few small images do not decide: they are enlarged.
    """
    sides = np.sort(headers.sides())
    reached = int(sides[int(len(sides) * (1 - REACHED))])
    return max(reached, int(np.median(sides)) // 2)


def fitting_size(side: int, factor: int) -> int:
    """Return the largest multiple of the network's factor that is no larger than a side; 0 if there is none."""
    return side // factor * factor


def smaller_than(headers: Headers, size: int) -> list[Header]:
    """Return the images whose shorter side is below a size, the smallest first. They are enlarged."""
    return sorted((h for h in headers.found if h.side < size), key=lambda h: h.side)


def extreme_shapes(headers: Headers) -> list[Header]:
    """Return the images longer than 4:1, the longest first. Only their centre square is used."""
    return sorted((h for h in headers.found if h.aspect > MAX_ASPECT), key=lambda h: -h.aspect)
