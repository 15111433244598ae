"""Columns of images, labels and captions in a table, and the rows of such a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..errors import DataError
from .captions import TEXT_NAMES
from .cells import content_of, read_cell, shown
from .config import DataConfig
from .decode import load_image, open_image
from .findings import Notes
from .labels import LABEL_NAMES
from .metadata_files import plain

if TYPE_CHECKING:
    from datasets import Dataset

IMAGE_NAMES = ("image", "img", "images", "jpg", "png", "webp")
NUMBERS = ("int", "uint", "float", "double", "bool", "binary", "large_binary")
TEXTS = ("string", "large_string")


@dataclass(frozen=True)
class Columns:
    """Names of the columns in use, or None."""

    image: str
    label: str | None
    text: str | None


def find_columns(features: Mapping[str, Any], data: DataConfig, where: str, notes: Notes) -> Columns:
    """Return the columns that the settings name; choose the others by type and name.

    Raises:
        DataError: a named column does not exist, no column holds images, or the choice is ambiguous.
    """
    named = {"image": data.image_column, "label": data.label_column, "text": data.text_column}
    for option, name in named.items():
        if name is not None and name not in features:
            flag = f"--{option}-column"
            raise DataError(f"{where}: no column {name!r} ({flag}); columns are {', '.join(features)}")
    columns = Columns(
        named["image"] or _image_column(features, where),
        named["label"] or _label_column(features, where, notes),
        named["text"] or _text_column(features, where, notes),
    )
    if columns.text and _is_list(features[columns.text]):
        notes.info(f"{where}: of several captions in {columns.text!r}, the first is used")
    used = {columns.image, columns.label, columns.text}
    if unused := [name for name in features if name not in used and not _is_image(name, features[name])]:
        notes.info(f"{where}: columns that are not used: {', '.join(unused)}")
    return columns


def with_image(columns: Columns, features: Mapping[str, Any], image: str, where: str) -> Columns:
    """Return the columns with another one of images. Raises DataError if it does not exist."""
    if image not in features:
        known = ", ".join(features)
        raise DataError(f"{where}: no column {image!r} (--conditioning-column); columns are {known}")
    return replace(columns, image=image)


class TableRows:
    """The rows of one split. Each image is decoded on access, so that an error can name its file or row."""

    def __init__(self, table: Dataset, columns: Columns, labels: np.ndarray | None, split: str) -> None:
        """`labels`: (N,) class index of each row, or -1. None: no labels."""
        from datasets import Image as ImageFeature

        if type(table.features[columns.image]).__name__ == "Image":
            table = table.cast_column(columns.image, ImageFeature(decode=False))
        self._images = table.select_columns([columns.image])
        self._texts = table.select_columns([columns.text]) if columns.text else None
        self.labels = labels
        self.columns, self._split = columns, split

    def __len__(self) -> int:
        return len(self._images)

    def header(self, row: int) -> Image.Image:
        cell = self._cell(row)
        return open_image(cell, self._where(row, cell))

    def image(self, row: int, at_least: int | None = None) -> Image.Image:
        cell = self._cell(row)
        return load_image(cell, self._where(row, cell), at_least)

    def label(self, row: int) -> int | None:
        if self.labels is None or self.labels[row] < 0:
            return None
        return int(self.labels[row])

    def text(self, row: int) -> str | None:
        if self._texts is None:
            return None
        return caption_in(self._texts[row][self.columns.text])

    def where(self, row: int) -> str:
        return self._where(row, self._cell(row))

    def paths(self) -> list[str | None]:
        """Return the file of each image; None for images that the table contains."""
        column = self._arrow_images()
        if _is_text(column.type):
            return column.to_pylist()
        if not _has_field(column.type, "path"):
            return [None] * len(column)
        import pyarrow.compute as pc

        paths = pc.struct_field(column, "path").to_pylist()
        return [None if size else path for path, size in zip(paths, self.byte_counts(), strict=True)]

    def byte_counts(self) -> np.ndarray:
        """Return (N,) the encoded bytes of each image that the table contains, or 0."""
        import pyarrow.compute as pc

        column = self._arrow_images()
        if _has_field(column.type, "bytes"):
            column = pc.struct_field(column, "bytes")
        elif _is_text(column.type) or _has_field(column.type, "path"):
            return np.zeros(len(column), np.int64)
        return pc.fill_null(pc.binary_length(column), 0).to_numpy().astype(np.int64)

    def encoded(self, row: int) -> bytes:
        """Return the bytes of an image. Raises OSError."""
        return read_cell(self._cell(row))

    def captioned(self) -> np.ndarray:
        """Return (N,) bool: whether each row has a caption."""
        if self._texts is None or self.columns.text is None:
            return np.zeros(len(self), bool)
        values = column_values(self._texts, self.columns.text)
        return np.fromiter((caption_in(value) is not None for value in values), bool, len(values))

    def with_column(self, table: Dataset, column: str) -> TableRows:
        """Return the same rows of a table with another column of images. Raises DataError if it does not exist."""
        columns = with_image(self.columns, table.features, column, self._split)
        return TableRows(table, columns, self.labels, self._split)

    def _arrow_images(self) -> Any:
        return self._images.with_format("arrow")[:][self.columns.image]

    def _cell(self, row: int) -> Any:
        return self._images[row][self.columns.image]

    def _where(self, row: int, cell: Any) -> str:
        path = content_of(cell)
        return shown(path) if isinstance(path, str) else f"row {row} of {self._split}"


def caption_in(value: Any) -> str | None:
    """Return the caption in a cell: of several, the first."""
    if isinstance(value, list):
        value = value[0] if value else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return None if value is None else str(value).strip() or None


def _has_field(kind: Any, name: str) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_struct(kind)) and kind.get_field_index(name) >= 0


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def column_values(table: Dataset, column: str) -> list[Any]:
    """Return all values of a column."""
    return table.select_columns([column]).with_format("arrow")[:][column].to_pylist()


def _image_column(features: Mapping[str, Any], where: str) -> str:
    found = [name for name, feature in features.items() if _is_image(name, feature)]
    named = [name for name in IMAGE_NAMES if name in found]
    if named or len(found) == 1:
        return (named or found)[0]
    if found:
        raise DataError(
            f"{where}: several columns hold images ({', '.join(found)}); select one with --image-column"
        )
    raise DataError(
        f"{where}: no column holds images; columns are {', '.join(features)}; select one with --image-column"
    )


def _is_image(name: str, feature: Any) -> bool:
    if type(feature).__name__ == "Image":
        return True
    if isinstance(feature, Mapping):  # an image feature that lost its metadata
        return "bytes" in feature and set(feature) <= {"bytes", "path"}
    return name in IMAGE_NAMES and getattr(feature, "dtype", "") in ("binary", "large_binary")


def _label_column(features: Mapping[str, Any], where: str, notes: Notes) -> str | None:
    classes = [name for name, feature in features.items() if type(feature).__name__ == "ClassLabel"]
    named = _by_name(classes, LABEL_NAMES)
    if named or len(classes) == 1:
        return (named or classes)[0]
    if classes:
        several = ", ".join(classes)
        notes.warn(
            f"{where}: several label columns ({several}), none is used; select one with --label-column"
        )
        return None
    known = [name for name, feature in features.items() if _dtype(feature, NUMBERS + TEXTS)]
    return _first(_by_name(known, LABEL_NAMES), "label", where, notes)


def _text_column(features: Mapping[str, Any], where: str, notes: Notes) -> str | None:
    """The column of captions. A column of numbers counts too: captions may be digits."""
    known = [
        name
        for name, feature in features.items()
        if _dtype(feature, NUMBERS + TEXTS) or _dtype(getattr(feature, "feature", None), TEXTS)
    ]
    return _first(_by_name(known, TEXT_NAMES), "text", where, notes)


def _is_list(feature: Any) -> bool:
    return isinstance(feature, list) or hasattr(feature, "feature")


def _by_name(names: Iterable[str], order: Sequence[str]) -> list[str]:
    """The columns with known names, in order of preference."""
    return sorted((name for name in names if plain(name) in order), key=lambda name: order.index(plain(name)))


def _first(names: list[str], kind: str, where: str, notes: Notes) -> str | None:
    if len(names) > 1:
        notes.info(
            f"{where}: several {kind} columns ({', '.join(names)}); {names[0]} is used; --{kind}-column selects another"
        )
        notes.alternatives += [f"--{kind}-column {name}" for name in names[1:]]
    return names[0] if names else None


def _dtype(feature: Any, kinds: tuple[str, ...]) -> bool:
    return str(getattr(feature, "dtype", "")).rstrip("0123456789") in kinds
