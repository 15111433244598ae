"""The built-in data: scikit-learn's handwritten digits, 1,797 of them, enlarged to 32 x 32."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ..errors import DataError

SIDE = 32
TRAINING = 1500  # rows stand in order of their writers: the last 297 are by hands the first 1,500 never show
CLASS_NAMES = tuple(str(digit) for digit in range(10))


class DigitRows:
    """Some of the digits, in memory. Pixels (N, 32, 32) uint8 in [0, 255]; labels (N,) from 0 to 9."""

    def __init__(self, pixels: np.ndarray, labels: np.ndarray) -> None:
        self.pixels, self.labels = pixels, labels

    def __len__(self) -> int:
        return len(self.pixels)

    def header(self, row: int) -> Image.Image:
        return Image.fromarray(self.pixels[row])

    def image(self, row: int, at_least: int | None = None) -> Image.Image:
        return Image.fromarray(self.pixels[row])

    def label(self, row: int) -> int:
        return int(self.labels[row])

    def text(self, row: int) -> None:
        return None

    def where(self, row: int) -> str:
        return f"digit {row}"


def open_digits() -> dict[str, DigitRows]:
    """The splits: 'train', the first 1,500 rows, and 'test', the last 297.

    Raises:
        DataError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise DataError(
            "the built-in digits need scikit-learn: run `pip install imgtf[demo]`, "
            "or name your own images with --data"
        ) from None
    bunch = load_digits()
    pixels = np.stack([_enlarge(image) for image in bunch.images])
    labels = bunch.target.astype(np.int64)
    return {
        "train": DigitRows(pixels[:TRAINING], labels[:TRAINING]),
        "test": DigitRows(pixels[TRAINING:], labels[TRAINING:]),
    }


def _enlarge(image: np.ndarray) -> np.ndarray:
    """(8, 8) in [0, 16] -> (32, 32) uint8; in mode F, so that bicubic smoothing rounds only once."""
    grey = Image.fromarray((image * (255 / 16)).astype(np.float32))
    large = np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    return large.round().clip(0, 255).astype(np.uint8)
