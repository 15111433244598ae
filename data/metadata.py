"""Metadata of images: its rows matched with the image files, and the rows of several files merged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import DataError
from .files import File
from .findings import Notes, some
from .image_index import Ambiguous, ImageIndex
from .labels import LABEL_NAMES, NotALabel, class_name
from .metadata_files import FILE_COLUMNS, SUFFIXES, Row, names_files, plain, read_rows
from .splits import split_in_stem, split_word

OTHER_IMAGE = "_file_name"
"""Suffix of a metadata column with paths of other images: `edges_file_name` becomes the image column `edges`."""
SPLIT_COLUMNS = ("split", "set", "subset", "partition", "fold")

Values = dict[str, Any]


@dataclass
class Metadata:
    """The rows of all metadata files by image."""

    rows: dict[str, list[Values]] = field(default_factory=dict)
    """Path of an image -> its rows, one per caption."""
    splits: dict[str, set[str]] = field(default_factory=dict)
    """Path of an image -> its splits, from a column or from the name of the metadata file."""
    files: list[str] = field(default_factory=list)

    def other_images(self) -> set[str]:
        """The files that columns `NAME_file_name` name."""
        rows = (row for rows in self.rows.values() for row in rows)
        return {value for row in rows for key, value in row.items() if key.endswith(OTHER_IMAGE) and value}


@dataclass(frozen=True)
class Entry:
    """One row of one file, matched with its image."""

    path: str
    where: str
    values: Values


def is_metadata(file: File) -> bool:
    """Whether a file must be readable as metadata because of its name, such as metadata.csv."""
    return file.suffix in SUFFIXES and file.name.lower().startswith("metadata.")


def read_metadata(root: Path, files: Sequence[File], images: Iterable[str], notes: Notes) -> Metadata:
    """Return the rows of `files`, which are metadata.* or other tables that name images.

    Raises:
        DataError: a file or a row cannot be read with certainty.
    """
    index, metadata, unused = ImageIndex(images if files else ()), Metadata(), []
    for file in sorted(files, key=lambda file: not is_metadata(file)):
        reader = _FileReader(root, file, index, notes)
        if entries := reader.entries():
            _add(root, metadata, file, entries, notes)
        unused += reader.unused
    if unused:
        notes.warn(f"{root}: files that are not used as metadata: {len(unused)} ({some(unused)})")
    return metadata


class _FileReader:
    """Reads one file of metadata."""

    def __init__(self, root: Path, file: File, index: ImageIndex, notes: Notes) -> None:
        self.path, self.file, self.index, self.notes = root / file.path, file, index, notes
        self.folder = file.path.rpartition("/")[0]
        self.how: Counter[str] = Counter()
        self.missing: list[str] = []
        self.unused: list[str] = []
        """Why the file is not metadata of these images."""

    def entries(self) -> list[Entry] | None:
        """Return the matched rows; None for a file that is not metadata of these images."""
        rows = self._rows()
        if not rows:
            self.unused += [] if self.unused else [f"{self.file.path} (no rows)"]
            return None
        column = self._file_column(rows)
        if column is None:
            known = ", ".join(dict.fromkeys(key for _, row in rows for key in row))
            return self._no_metadata(f"no column of file names such as file_name; columns are {known}")
        entries = [entry for where, row in rows if (entry := self._entry(where, row, column))]
        if not entries:
            return self._no_metadata(
                f"none of its {len(rows)} rows names an image of this folder; the first names {self.missing[0]}"
            )
        self._say(len(rows))
        return entries

    def _rows(self) -> list[Row]:
        try:
            return read_rows(self.path)
        except DataError as error:
            if is_metadata(self.file) or names_files(self.path):
                raise
            self.unused.append(str(error))
            return []

    def _no_metadata(self, reason: str) -> list[Entry] | None:
        if is_metadata(self.file):
            raise DataError(f"{self.path}: {reason}")
        self.unused.append(f"{self.file.path} ({reason})")
        return None

    def _file_column(self, rows: list[Row]) -> str | None:
        """The column of file names: the first by name whose values are images, else the first by name."""
        columns = dict.fromkeys(key for _, row in rows for key in row)
        known = [c for c in columns if plain(c) in FILE_COLUMNS]
        known = [c for c in known if not any(isinstance(row.get(c), (dict, list, bytes)) for _, row in rows)]
        known.sort(key=lambda column: FILE_COLUMNS.index(plain(column)))
        matching = (c for c in known if any(self._names_image(row.get(c)) for _, row in rows))
        return next(matching, known[0] if known else None)

    def _names_image(self, value: Any) -> bool:
        try:
            return bool(_name(value)) and self.index.find(self.folder, _name(value))[0] is not None
        except Ambiguous:
            return True

    def _entry(self, where: str, row: Values, column: str) -> Entry | None:
        name = _name(row.get(column))
        if not name:
            raise DataError(f"{self.path}: {where} has no {column}")
        try:
            path, how = self.index.find(self.folder, name)
        except Ambiguous as error:
            raise DataError(f"{self.path}: {where}: {error}; write the whole path") from None
        if path is None:
            self.missing.append(f"{self.file.path} {where}: no image {name}")
            return None
        self.how[how] += 1
        values = {key: self._value(key, value) for key, value in row.items() if key != column}
        return Entry(path, where, values)

    def _value(self, key: str, value: Any) -> Any:
        if not key.endswith(OTHER_IMAGE) or value is None:
            return value
        try:
            found = self.index.find(self.folder, str(value))[0]
        except Ambiguous as error:
            raise DataError(f"{self.path}: {error}; write the whole path") from None
        return found or "/".join([*filter(None, [self.folder]), str(value)])

    def _say(self, count: int) -> None:
        for how, number in self.how.items():
            if how:
                self.notes.info(f"{self.path}: {number} of {count} file names are matched {how}")
        if self.missing:
            self.notes.missing += dict.fromkeys(self.missing)
            self.notes.warn(
                f"{self.path}: {len(self.missing)} of {count} rows name files that do not exist and are left out: "
                f"{some(self.missing)}"
            )


def _name(value: Any) -> str:
    """A file name as text; "" if the value is none."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip() if isinstance(value, (str, int)) and not isinstance(value, bool) else ""


def _add(root: Path, metadata: Metadata, file: File, entries: list[Entry], notes: Notes) -> None:
    """Add the rows of one file. Rows that repeat earlier ones, or add columns to them, are merged."""
    before = {path: list(rows) for path, rows in metadata.rows.items()}
    seen: set[tuple[Any, ...]] = set()
    merged = 0
    for entry in entries:
        row = (entry.path, *sorted((key, str(value)) for key, value in entry.values.items()))
        if row in seen or _merge(before.get(entry.path, []), entry.values):
            merged += 1
        else:
            metadata.rows.setdefault(entry.path, []).append(entry.values)
        seen.add(row)
        _check_label(root / file.path, metadata, entry)
        _note_split(metadata, file, entry)
    if merged:
        notes.info(
            f"{root / file.path}: {merged} of {len(entries)} rows repeat or extend other rows of the same image"
        )
    metadata.files.append(file.path)


def _merge(earlier: list[Values], values: Values) -> bool:
    """Add the values to the earlier rows of the image that do not contradict them. Return whether there is one."""
    fitting = [row for row in earlier if _agree(row, values)]
    for row in fitting:
        row.update({key: value for key, value in values.items() if value is not None})
    return bool(fitting)


def _check_label(path: Path, metadata: Metadata, entry: Entry) -> None:
    """Raise DataError if an image has two labels."""
    for key in (key for key in entry.values if plain(key) in LABEL_NAMES):
        label = _label(entry.values[key])
        others = {_label(row.get(key)) for row in metadata.rows[entry.path]} - {None, label}
        if label is not None and others:
            raise DataError(
                f"{path}: {entry.where}: {entry.path} has the {key} {label!r}, another row says {others.pop()!r}; "
                f"give each image one, or move the file out of the folder"
            )


def _label(value: Any) -> str | None:
    try:
        return class_name(value)
    except NotALabel:
        return str(value)


def _agree(one: Values, other: Values) -> bool:
    return all(
        one[key] is None or other[key] is None or str(one[key]) == str(other[key])
        for key in one.keys() & other.keys()
    )


def _note_split(metadata: Metadata, file: File, entry: Entry) -> None:
    named = next(
        (v for k, v in entry.values.items() if plain(k) in SPLIT_COLUMNS and isinstance(v, str)), None
    )
    split = split_word(named) if named else split_in_stem(file.name.rpartition(".")[0])
    if split is not None:
        metadata.splits.setdefault(entry.path, set()).add(split)
