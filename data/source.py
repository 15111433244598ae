"""Data sets by name or path, split into rows for training and held-out rows for evaluation."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from PIL import Image

from ..errors import DataError
from .columns import TableRows, find_columns, label_classes
from .config import DIGITS, DataConfig
from .digits import CLASS_NAMES, open_digits
from .folder import HELD_OUT_NAMES, TRAIN_NAMES
from .image import check_background
from .tables import open_tables

MAX_HELD_OUT = 5000  # more images only make evaluation slower


class Rows(Protocol):
    """The rows of one split; see the methods of `ImageSource`."""

    def __len__(self) -> int: ...
    def header(self, row: int) -> Image.Image: ...
    def image(self, row: int, at_least: int | None = None) -> Image.Image: ...
    def label(self, row: int) -> int | None: ...
    def text(self, row: int) -> str | None: ...
    def where(self, row: int) -> str: ...


@dataclass(frozen=True)
class ImageSource:
    """Some rows of a data set: images with optional labels and captions."""

    name: str
    """The data set as given with --data."""
    split: str
    """Name of the split: 'train', or 'train[held-out]' for a part of it."""
    class_names: tuple[str, ...]
    """() without labels. Training and held-out rows have the same classes."""
    fingerprint: str
    """Identity of data, rows and columns; the same in every process."""
    rows: Rows
    chosen: np.ndarray
    """(N,) int64: rows of the split that belong to this source."""

    def __len__(self) -> int:
        return len(self.chosen)

    def header(self, i: int) -> Image.Image:
        """Return image i without its pixels: mode and size are known. Raises BadImage."""
        return self.rows.header(self._row(i))

    def image(self, i: int, at_least: int | None = None) -> Image.Image:
        """Return image i decoded, in the mode of its file, EXIF orientation not yet applied.

        Args:
            at_least: shorter side needed, in pixels. A large JPEG may be reduced, to at least twice this side.

        Raises:
            BadImage: the image cannot be read.
        """
        return self.rows.image(self._row(i), at_least)

    def label(self, i: int) -> int | None:
        """Return the class of image i, an index into `class_names`, or None."""
        return self.rows.label(self._row(i))

    def text(self, i: int) -> str | None:
        """Return the caption of image i, or None."""
        return self.rows.text(self._row(i))

    def where(self, i: int) -> str:
        """Return the file of image i, or 'row 12 of train'."""
        return self.rows.where(self._row(i))

    def _row(self, i: int) -> int:
        if not 0 <= i < len(self.chosen):
            raise IndexError(f"image {i} of {len(self.chosen)}")
        return int(self.chosen[i])


def open_source(data: DataConfig) -> tuple[ImageSource, ImageSource]:
    """Return the training images and the held-out images.

    Without a held-out split, a fraction of the training split is held out (`data.held_out`; 0 for no images).

    Raises:
        DataError: the data set, a split or a column does not exist, or there are no images.
        ConfigError: the background is not a colour.
    """
    check_background(data.background)
    splits = _open_splits(data)
    whole = splits[0]
    if not len(whole):
        raise DataError(f"{data.data}: the split {whole.split!r} has no images")
    if len(splits) == 2:
        return whole, splits[1]
    kept, held_out = hold_out(len(whole), data.held_out)
    if not len(held_out):
        return whole, _subset(whole, held_out, "[held-out]")
    return _subset(whole, kept, ""), _subset(whole, held_out, "[held-out]")


def choose_splits(names: Sequence[str], config: DataConfig) -> tuple[str, str | None]:
    """Return (training split, held-out split or None): as configured, else by their usual names."""
    known = ", ".join(names)
    for option, wanted in (("--split", config.split), ("--held-out-split", config.held_out_split)):
        if wanted is not None and wanted not in names:
            raise DataError(f"{config.data}: no split {wanted!r} ({option}); splits are {known}")
    train = config.split or _first(TRAIN_NAMES, names) or (names[0] if len(names) == 1 else None)
    if train is None:
        raise DataError(f"{config.data}: no split is named train; select one of {known} with --split")
    rest = [name for name in names if name != train]
    return train, config.held_out_split or _first(HELD_OUT_NAMES, rest)


def hold_out(count: int, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Split rows 0 to count-1 at random into (kept, held out), each ascending, the same on every machine.

    At least one row is kept. At most 5,000 rows are held out, and at least one unless `fraction` is 0.
    """
    size = min(max(1, round(count * fraction)), MAX_HELD_OUT, count - 1) if fraction > 0 else 0
    order = np.random.RandomState(0).permutation(count)  # NumPy guarantees this generator never changes
    return np.sort(order[size:]).astype(np.int64), np.sort(order[:size]).astype(np.int64)


def _open_splits(data: DataConfig) -> list[ImageSource]:
    """The training split, and the held-out split if there is one."""
    if data.data == DIGITS:
        digits = open_digits()
        used = choose_splits(list(digits), data)
        return [_source(data.data, name, digits[name], CLASS_NAMES, "digits-1") for name in used if name]
    tables, identity = open_tables(data.data)
    used = choose_splits(list(tables), data)
    chosen = {name: tables[name] for name in used if name}
    found = [find_columns(t.features, data, f"{data.data} {n}") for n, t in chosen.items()]
    columns = found[0]
    if columns != found[-1]:
        raise DataError(
            f"{data.data}: the splits {' and '.join(chosen)} have different columns: {columns}, {found[-1]}"
        )
    classes, ids = label_classes(list(chosen.values()), columns.label)
    return [
        _source(
            data.data, name, TableRows(tables[name], columns, ids, name), classes, f"{identity} {columns}"
        )
        for name in used
        if name
    ]


def _source(name: str, split: str, rows: Rows, classes: tuple[str, ...], identity: str) -> ImageSource:
    chosen = np.arange(len(rows), dtype=np.int64)
    return ImageSource(name, split, classes, _hash(identity, split, chosen), rows, chosen)


def _subset(whole: ImageSource, chosen: np.ndarray, suffix: str) -> ImageSource:
    fingerprint = _hash(whole.fingerprint, suffix, chosen)
    return replace(whole, split=whole.split + suffix, fingerprint=fingerprint, chosen=chosen)


def _hash(identity: str, split: str, chosen: np.ndarray) -> str:
    return hashlib.sha256(f"{identity}\n{split}\n".encode() + chosen.tobytes()).hexdigest()[:16]


def _first(wanted: Sequence[str], names: Sequence[str]) -> str | None:
    return next((name for want in wanted for name in names if name.lower() == want), None)
