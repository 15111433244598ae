"""A map of numbers, laid over an image in colour.

Shapes: h, w grid, H, W image.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from ..data.image import plain

COLOURS = np.array([(255, 215, 0), (255, 120, 0), (215, 0, 30), (140, 0, 110)], dtype=np.float64)
"""Yellow, orange, red, purple: from slightly above the lower end of the scale to its upper end."""
STRONGEST = 0.75
"""Share of the colour at the upper end; at the lower end the image shows unchanged."""
SIDE = 256
"""Pixels of the longer side of an overlay, at least."""


def overlay(image: Image.Image, values: np.ndarray, low: float, high: float) -> Image.Image:
    """Return an image in grey, with values (h, w) over it in colour.

    Args:
        low, high: ends of the scale. Where a value is `low` or below, the image shows unchanged.
    """
    large = enlarge(_grey(image))
    grey, size = np.asarray(large, dtype=np.float64)[..., None], large.size
    strength = np.clip((enlarged(values, size) - low) / (high - low), 0, 1)[..., None]
    colour = np.stack([np.interp(strength[..., 0], np.linspace(0, 1, 4), c) for c in COLOURS.T], -1)
    share = STRONGEST * np.sqrt(strength)
    return Image.fromarray((grey * (1 - share) + colour * share).round().astype(np.uint8))


def enlarge(image: Image.Image) -> Image.Image:
    """Return an image enlarged by a whole factor, without smoothing, to at least `SIDE` pixels."""
    factor = max(1, -(-SIDE // max(image.size)))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def smooth(values: np.ndarray, deviation: float) -> np.ndarray:
    """Return values (h, w) averaged under a Gaussian; near the borders over what lies inside."""
    if not deviation:
        return values
    rows, columns = (_kernel(length, deviation) for length in values.shape)
    return rows @ values @ columns.T


def enlarged(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return values (h, w) interpolated to a size (W, H), as (H, W)."""
    image = Image.fromarray(values.astype(np.float32))
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR))


def _kernel(length: int, deviation: float) -> np.ndarray:
    """Return the weights (length, length) of each place's average."""
    place = np.arange(length)
    weights = np.exp(-((place[:, None] - place) ** 2) / (2 * deviation**2))
    return np.asarray(weights / weights.sum(1, keepdims=True))


def _grey(image: Image.Image) -> Image.Image:
    grey = plain(image, 1, "white")
    if grey.mode == "F":  # 16 bits, in [0, 1]
        grey = Image.fromarray((np.asarray(grey) * 255).round().astype(np.uint8))
    return grey
