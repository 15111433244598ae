"""The built-in data set: the 1,797 handwritten digits of scikit-learn, enlarged to 32 x 32."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ..errors import DataError

SIDE = 32
TRAINING = 1500  # rows are sorted by writer: the last 297 have writers that the first 1,500 do not have
CLASS_NAMES = tuple(str(digit) for digit in range(10))


class DigitRows:
    """Rows of one split, in memory. Pixels: (N, 32, 32) uint8 in [0, 255]. Labels: (N,) in [0, 9]."""

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

    def captioned(self) -> np.ndarray:
        return np.zeros(len(self.pixels), bool)

    def text(self, row: int) -> None:
        return None

    def where(self, row: int) -> str:
        return f"digit {row}"


def open_digits() -> dict[str, DigitRows]:
    """Return the splits: 'train' (the first 1,500 rows) and 'test' (the last 297).

    Raises:
        DataError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise DataError(
            "the built-in digits need scikit-learn: run `pip install imgtf[demo]`, "
            "or use your own images with --data"
        ) from None
    bunch = load_digits()
    pixels = np.stack([_enlarge(image) for image in bunch.images])
    labels = bunch.target.astype(np.int64)
    return {
        "train": DigitRows(pixels[:TRAINING], labels[:TRAINING]),
        "test": DigitRows(pixels[TRAINING:], labels[TRAINING:]),
    }


def _enlarge(image: np.ndarray) -> np.ndarray:
    """(8, 8) in [0, 16] -> (32, 32) uint8. Resized in mode F, so that values are rounded only once."""
    grey = Image.fromarray((image * (255 / 16)).astype(np.float32))
    large = np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    return large.round().clip(0, 255).astype(np.uint8)
