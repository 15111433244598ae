"""Data sets by name or path, split into rows for training and held-out rows for evaluation."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from PIL import Image

from ..errors import DataError
from .columns import Columns, TableRows, find_columns
from .config import DIGITS, DataConfig
from .digits import CLASS_NAMES, open_digits
from .duplicates import Contents, note_duplicates
from .findings import Duplicates, Findings, Notes, SplitFindings
from .image import check_background
from .splits import choose_splits
from .splits import hold_out as hold_out
from .stream import Stream
from .stream_source import open_stream
from .table_labels import table_labels
from .tables import open_tables

NO_FINDINGS = Findings("", "", 0)


class Rows(Protocol):
    """The rows of one split; see the methods of `ImageSource`."""

    @property
    def labels(self) -> np.ndarray | None: ...
    def __len__(self) -> int: ...
    def captioned(self) -> np.ndarray: ...
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
    findings: Findings = NO_FINDINGS
    stream: Stream | None = None
    """All images, in the order in which they come; the rows are the first ones. None: the rows are all."""
    """What was found in the whole data set, and how it was read."""

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def amount(self) -> str:
        """How many images there are, in words."""
        return f"{len(self)} images" if self.stream is None else f"about {self.expected:,} streamed images"

    @property
    def expected(self) -> int:
        """The number of images; of a stream, the number that the sizes of its shards suggest."""
        return len(self) if self.stream is None else self.stream.about

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


def open_source(data: DataConfig, column: str | None = None) -> tuple[ImageSource, ImageSource]:
    """Return the training images and the held-out images.

    Without a held-out split, a fraction of the training split is held out (`data.held_out`; 0 for no images). All rows
    of an image, and images with the same content, are on the same side.

    Args:
        column: another image column, for example of conditioning images. Its rows are those of the images. Nothing is
            logged then.

    Raises:
        DataError: the data set, a split or a column does not exist, or there are no images.
        ConfigError: the background is not a colour.
    """
    check_background(data.background)
    notes = Notes()
    if data.streaming:
        sources = _open_stream(data, column, notes)
    else:
        sources = _open_digits(data, notes) if data.data == DIGITS else _open_tables(data, column, notes)
    if column is None:
        notes.log()
    return sources


def _open_digits(data: DataConfig, notes: Notes) -> tuple[ImageSource, ImageSource]:
    digits = open_digits()
    notes.found = sum(map(len, digits.values()))
    notes.read_as("built-in digits")
    if os.path.isdir(DIGITS):
        notes.warn(f"{DIGITS}: the built-in digits, not the folder; its name as data is ./{DIGITS}")
    used = choose_splits(list(digits), data)
    splits = [_source(data.data, name, digits[name], CLASS_NAMES, "digits-1") for name in used if name]
    _note_unused(digits, used, notes)
    return _with_findings(_divided(splits, data, None, notes), [None] * len(splits), notes)


def _open_stream(data: DataConfig, column: str | None, notes: Notes) -> tuple[ImageSource, ImageSource]:
    """The first samples of a stream, which stand for all, and its held-out samples."""
    opened = open_stream(data, notes, column)
    train, held_out = (
        _source(data.data, split, rows, opened.classes, opened.identity)
        for split, rows in zip(opened.splits, opened.samples, strict=True)
    )
    notes.found = len(train) + len(held_out)
    found = _with_findings((train, held_out), [None, None], notes)
    return replace(found[0], stream=opened.stream), found[1]


def _open_tables(data: DataConfig, column: str | None, notes: Notes) -> tuple[ImageSource, ImageSource]:
    tables, identity = open_tables(data.data, notes)
    used = choose_splits(list(tables), data)
    _note_unused(tables, used, notes)
    chosen = {name: tables[name] for name in used if name}
    columns = _columns(chosen, data, notes)
    named = data.label_column is not None
    classes, labels = table_labels(chosen, [own.label for own in columns], named, data.data, notes)
    rows = [
        TableRows(table, own, ids, name)
        for (name, table), own, ids in zip(chosen.items(), columns, labels, strict=True)
    ]
    if not len(rows[0]):
        raise DataError(f"{data.data}: the split {used[0]!r} has no images")
    contents = Contents(rows, data.data, notes)
    if images := len(contents.files) - len(np.unique(contents.files)):
        notes.info(f"{data.data}: rows with further captions of the same images: {images}")
    found = contents.summary(len(rows[0]))
    note_duplicates(found, len(rows) == 2, data.data, notes)
    shown = (
        rows
        if column is None
        else [own.with_column(chosen[n], column) for n, own in zip(chosen, rows, strict=True)]
    )
    splits = [
        _source(data.data, name, own, classes, f"{identity} {own.columns}")
        for name, own in zip(chosen, shown, strict=True)
    ]
    files = np.split(contents.files, np.cumsum([len(own) for own in rows])[:-1])
    return _with_findings(_divided(splits, data, contents.groups(), notes), files, notes, found)


def _columns(tables: dict[str, Any], data: DataConfig, notes: Notes) -> list[Columns]:
    """The columns of each split. A held-out split may lack labels and captions."""
    train, *rest = tables
    first = find_columns(tables[train].features, data, f"{data.data} {train}", notes)
    found = [first]
    for name in rest:
        features = tables[name].features
        if first.image not in features:
            raise DataError(f"{data.data}: the split {name!r} has no column {first.image!r}")
        own = replace(
            first,
            label=first.label if first.label in features else None,
            text=first.text if first.text in features else None,
        )
        for kind, wanted, has in (("label", first.label, own.label), ("text", first.text, own.text)):
            if wanted and not has:
                notes.warn(f"{data.data}: the split {name!r} has no {kind} column {wanted!r}")
        found.append(own)
    return found


def _note_unused(splits: Mapping[str, Sized], used: Sequence[str | None], notes: Notes) -> None:
    for name, split in splits.items():
        if name not in used:
            notes.leave_out(f"the split {name!r} is not used", count=len(split))
            notes.info(f"the split {name!r} ({len(split)} rows) is not used")


def _divided(
    splits: list[ImageSource], data: DataConfig, groups: np.ndarray | None, notes: Notes
) -> tuple[ImageSource, ImageSource]:
    """The training and the held-out source: the given splits, or a split into two of the only one."""
    whole = splits[0]
    if len(splits) == 2:
        return whole, splits[1]
    kept, held_out = hold_out(len(whole), data.held_out, groups)
    asked = max(1, round(len(whole) * data.held_out))
    if len(held_out) > asked:
        notes.warn(
            f"{data.data}: {len(held_out)} rows are held out instead of {asked}: so many show the same image"
        )
    if not len(held_out):
        return whole, _subset(whole, held_out, "[held-out]")
    return _subset(whole, kept, ""), _subset(whole, held_out, "[held-out]")


def _with_findings(
    sources: tuple[ImageSource, ImageSource],
    files: Sequence[np.ndarray | None],
    notes: Notes,
    duplicates: Duplicates = Duplicates(),  # noqa: B008
) -> tuple[ImageSource, ImageSource]:
    """The sources with the findings of the data set. `files`: per split, the first row with the same file."""
    splits = tuple(_split_findings(source, files[min(i, len(files) - 1)]) for i, source in enumerate(sources))
    train, held_out = sources
    findings = Findings(
        train.name, notes.layout, notes.found, splits, train.class_names, tuple(notes.left_out),
        tuple(notes.missing), notes.other_files, duplicates, tuple(notes.alternatives),
        tuple(line for _, line in notes.lines),
    )  # fmt: skip
    return replace(train, findings=findings), replace(held_out, findings=findings)


def _split_findings(source: ImageSource, files: np.ndarray | None) -> SplitFindings:
    images = len(source) if files is None else len(np.unique(files[source.chosen]))
    labels = np.full(len(source), -1) if source.rows.labels is None else source.rows.labels[source.chosen]
    counts = np.bincount(labels[labels >= 0], minlength=len(source.class_names))
    captions = int(source.rows.captioned()[source.chosen].sum())
    return SplitFindings(
        source.split, len(source), images, tuple(counts.tolist()), int((labels < 0).sum()), captions
    )


def _source(name: str, split: str, rows: Rows, classes: tuple[str, ...], identity: str) -> ImageSource:
    chosen = np.arange(len(rows), dtype=np.int64)
    return ImageSource(name, split, classes, _hash(identity, split, chosen), rows, chosen)


def _subset(whole: ImageSource, chosen: np.ndarray, suffix: str) -> ImageSource:
    fingerprint = _hash(whole.fingerprint, suffix, chosen)
    return replace(whole, split=whole.split + suffix, fingerprint=fingerprint, chosen=chosen)


def _hash(identity: str, split: str, chosen: np.ndarray) -> str:
    return hashlib.sha256(f"{identity}\n{split}\n".encode() + chosen.tobytes()).hexdigest()[:16]
