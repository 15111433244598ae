"""Columns of images, labels and captions in a table, and the rows of such a table."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..errors import DataError
from .config import DataConfig
from .decode import load_image, open_image

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger("imgtf")

IMAGE_NAMES = ("image", "img", "images", "jpg", "png", "webp")
LABEL_NAMES = ("label", "labels", "class", "fine_label", "category", "target", "cls", "class_name")
TEXT_NAMES = ("text", "caption", "captions", "prompt", "description")


@dataclass(frozen=True)
class Columns:
    """Names of the columns in use, or None."""

    image: str
    label: str | None
    text: str | None


def find_columns(features: Mapping[str, Any], data: DataConfig, where: str) -> Columns:
    """Return the columns that the settings name; choose the others by type and name.

    Raises:
        DataError: a named column does not exist, no column holds images, or the choice is ambiguous.
    """
    named = {
        "image": data.image_column,
        "label": data.label_column,
        "text": data.text_column,
    }
    for option, name in named.items():
        if name is not None and name not in features:
            flag = f"--{option}-column"
            raise DataError(f"{where}: no column {name!r} ({flag}); columns are {', '.join(features)}")
    return Columns(
        named["image"] or _image_column(features, where),
        named["label"] or _label_column(features, where),
        named["text"] or _text_column(features),
    )


class TableRows:
    """The rows of one split. Each image is decoded on access, so that an error can name its file or row."""

    def __init__(self, table: Dataset, columns: Columns, label_ids: Mapping[Any, int], split: str) -> None:
        """`label_ids`: value in the label column -> class index. Other values have no class."""
        from datasets import Image as ImageFeature

        if type(table.features[columns.image]).__name__ == "Image":
            table = table.cast_column(columns.image, ImageFeature(decode=False))
        self._images = table.select_columns([columns.image])
        self._texts = table.select_columns([columns.text]) if columns.text else None
        self._labels = _ids(_values(table, columns.label), label_ids) if label_ids and columns.label else None
        self._columns, self._split = columns, split

    def __len__(self) -> int:
        return len(self._images)

    def header(self, row: int) -> Image.Image:
        cell = self._cell(row)
        return open_image(cell, self._where(row, cell))

    def image(self, row: int, at_least: int | None = None) -> Image.Image:
        cell = self._cell(row)
        return load_image(cell, self._where(row, cell), at_least)

    def label(self, row: int) -> int | None:
        if self._labels is None or self._labels[row] < 0:
            return None
        return int(self._labels[row])

    def text(self, row: int) -> str | None:
        if self._texts is None:
            return None
        text = self._texts[row][self._columns.text]
        if isinstance(text, list):  # several captions per image: use the first
            text = text[0] if text else None
        return None if text is None else str(text)

    def where(self, row: int) -> str:
        return self._where(row, self._cell(row))

    def _cell(self, row: int) -> Any:
        return self._images[row][self._columns.image]

    def _where(self, row: int, cell: Any) -> str:
        path = cell.get("path") if isinstance(cell, Mapping) and not cell.get("bytes") else cell
        return path if isinstance(path, str) else f"row {row} of {self._split}"


def label_classes(tables: list[Dataset], column: str | None) -> tuple[tuple[str, ...], dict[Any, int]]:
    """Return the class names, and value in the column -> class index, over all splits in use.

    A ClassLabel column has names. Other values (whole numbers, text) are sorted, and their names are the values as
    text. Missing values and -1 ("unknown" by convention) have no class.
    """
    if column is None:
        return (), {}
    names = getattr(tables[0].features[column], "names", None)
    if names is not None:
        return tuple(names), {i: i for i in range(len(names))}
    values = sorted({v for table in tables for v in _values(table, column) if v is not None and v != -1})
    return tuple(str(value) for value in values), {value: i for i, value in enumerate(values)}


def _values(table: Dataset, column: str | None) -> list[Any]:
    return table.select_columns([column]).with_format("arrow")[:][column].to_pylist()


def _ids(values: list[Any], label_ids: Mapping[Any, int]) -> np.ndarray:
    return np.fromiter((label_ids.get(value, -1) for value in values), np.int64, len(values))


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


def _label_column(features: Mapping[str, Any], where: str) -> str | None:
    classes = [name for name, feature in features.items() if type(feature).__name__ == "ClassLabel"]
    named = [name for name in LABEL_NAMES if name in classes]
    if named or len(classes) == 1:
        return (named or classes)[0]
    if classes:
        logger.warning(
            "%s: several label columns (%s), none is used; select one with --label-column",
            where,
            ", ".join(classes),
        )
        return None
    kinds = ("int", "uint", "string", "large_string", "bool")
    return next((name for name in LABEL_NAMES if name in features and _dtype(features[name], kinds)), None)


def _text_column(features: Mapping[str, Any]) -> str | None:
    kinds = ("string", "large_string")
    for name in TEXT_NAMES:
        feature = features.get(name)
        if feature is not None and (
            _dtype(feature, kinds) or _dtype(getattr(feature, "feature", None), kinds)
        ):
            return name
    return None


def _dtype(feature: Any, kinds: tuple[str, ...]) -> bool:
    return str(getattr(feature, "dtype", "")).rstrip("0123456789") in kinds
