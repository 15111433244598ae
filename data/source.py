"""A source of images by its name: which rows train, and which are held out to measure on."""

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

MOST_HELD_OUT = 5000  # measuring on more only costs time


class Rows(Protocol):
    """What a kind of source provides; see the methods of `ImageSource`."""

    def __len__(self) -> int: ...
    def header(self, row: int) -> Image.Image: ...
    def image(self, row: int, at_least: int | None = None) -> Image.Image: ...
    def label(self, row: int) -> int | None: ...
    def text(self, row: int) -> str | None: ...
    def where(self, row: int) -> str: ...


@dataclass(frozen=True)
class ImageSource:
    """Some rows of a data set: images, and their labels and captions where it has them."""

    name: str
    """As given with --data."""
    split: str
    """'train', or 'train[held-out]' for a share of it."""
    class_names: tuple[str, ...]
    """() without labels; the same for the training and the held-out rows."""
    fingerprint: str
    """The same in every process while the data are; another one for other data, rows or columns."""
    rows: Rows
    chosen: np.ndarray
    """(N,) int64: the rows of the split that belong to this source."""

    def __len__(self) -> int:
        return len(self.chosen)

    def header(self, i: int) -> Image.Image:
        """The image i undecoded: its mode and size can be had cheaply. Raises BadImage."""
        return self.rows.header(self._row(i))

    def image(self, i: int, at_least: int | None = None) -> Image.Image:
        """The image i decoded, as its file has it: any mode, EXIF orientation not yet applied.

        Args:
            at_least: the shorter side needed; a large JPEG may then come smaller, at least twice that.

        Raises:
            BadImage: it cannot be read.
        """
        return self.rows.image(self._row(i), at_least)

    def label(self, i: int) -> int | None:
        """The class of image i, an index into `class_names`."""
        return self.rows.label(self._row(i))

    def text(self, i: int) -> str | None:
        """The caption of image i."""
        return self.rows.text(self._row(i))

    def where(self, i: int) -> str:
        """The file of image i, or 'row 12 of train'."""
        return self.rows.where(self._row(i))

    def _row(self, i: int) -> int:
        if not 0 <= i < len(self.chosen):
            raise IndexError(f"image {i} of {len(self.chosen)}")
        return int(self.chosen[i])


def open_source(config: DataConfig) -> tuple[ImageSource, ImageSource]:
    """The images to train on, and those to measure on (none if `held_out` is 0 and no split is there).

    Raises:
        DataError: the source, a split or a column is not there, or holds no images.
        ConfigError: the background is no colour.
    """
    check_background(config.background)
    splits = _open_splits(config)
    whole = splits[0]
    if not len(whole):
        raise DataError(f"{config.data}: the split {whole.split!r} has no images")
    if len(splits) == 2:
        return whole, splits[1]
    kept, apart = hold_out(len(whole), config.held_out)
    if not len(apart):
        return whole, _part(whole, apart, "[held-out]")
    return _part(whole, kept, ""), _part(whole, apart, "[held-out]")


def choose_splits(names: Sequence[str], config: DataConfig) -> tuple[str, str | None]:
    """(split to train on, split to measure on or None), as the config says or as they are usually called."""
    there = ", ".join(names)
    for option, wanted in (("--split", config.split), ("--held-out-split", config.held_out_split)):
        if wanted is not None and wanted not in names:
            raise DataError(f"{config.data}: no split {wanted!r} ({option}); there are {there}")
    train = config.split or _first(TRAIN_NAMES, names) or (names[0] if len(names) == 1 else None)
    if train is None:
        raise DataError(f"{config.data}: which split to train on? There are {there}; choose with --split")
    rest = [name for name in names if name != train]
    return train, config.held_out_split or _first(HELD_OUT_NAMES, rest)


def hold_out(count: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows 0 to count-1 parted in two, each ascending: (kept, held out), the same on every machine.

    At least one row is held out unless the share is 0, at least one is kept, at most 5,000 are held out.
    """
    apart = min(max(1, round(count * share)), MOST_HELD_OUT, count - 1) if share > 0 else 0
    order = np.random.RandomState(0).permutation(count)  # the one NumPy stream that is frozen for ever
    return np.sort(order[apart:]).astype(np.int64), np.sort(order[:apart]).astype(np.int64)


def _open_splits(config: DataConfig) -> list[ImageSource]:
    """The split to train on, and the one to measure on where there is one."""
    if config.data == DIGITS:
        digits = open_digits()
        used = choose_splits(list(digits), config)
        return [_source(config, name, digits[name], CLASS_NAMES, "digits-1") for name in used if name]
    tables, mark = open_tables(config.data)
    used = choose_splits(list(tables), config)
    chosen = {name: tables[name] for name in used if name}
    columns = [find_columns(table.features, config, f"{config.data} {n}") for n, table in chosen.items()]
    if columns[0] != columns[-1]:
        raise DataError(
            f"{config.data}: {' and '.join(chosen)} have other columns: {columns[0]}, {columns[-1]}"
        )
    names, ids = label_classes(list(chosen.values()), columns[0].label)
    return [
        _source(config, name, TableRows(chosen[name], columns[0], ids, name), names, f"{mark} {columns[0]}")
        for name in used
        if name
    ]


def _source(config: DataConfig, split: str, rows: Rows, names: tuple[str, ...], identity: str) -> ImageSource:
    chosen = np.arange(len(rows), dtype=np.int64)
    return ImageSource(config.data, split, names, _hash(identity, split, chosen), rows, chosen)


def _part(whole: ImageSource, chosen: np.ndarray, suffix: str) -> ImageSource:
    mark = _hash(whole.fingerprint, suffix, chosen)
    return replace(whole, split=whole.split + suffix, fingerprint=mark, chosen=chosen)


def _hash(identity: str, split: str, chosen: np.ndarray) -> str:
    return hashlib.sha256(f"{identity}\n{split}\n".encode() + chosen.tobytes()).hexdigest()[:16]


def _first(wanted: Sequence[str], names: Sequence[str]) -> str | None:
    return next((name for want in wanted for name in names if name.lower() == want), None)
