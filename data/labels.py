"""Class labels: values of a column -> class names, and folders -> class names."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Hashable, Iterable, Mapping
from enum import Enum
from typing import Any

import numpy as np

LABEL_NAMES = (
    "label", "labels", "class", "fine_label", "category", "target", "cls", "class_name", "category_name",
    "label_name", "classes", "categories", "targets", "class_id", "classid", "category_id", "label_id",
)  # fmt: skip
"""Columns that hold class labels, in order of preference."""
NO_LABEL = frozenset({"", "nan", "NaN", "NAN", "null", "NULL", "<NA>", "-1"})
"""Texts that mean "no label"."""
UNLABELLED_FOLDERS = frozenset({"unlabeled", "unlabelled"})
_GENERIC = "images image imgs img photos pictures pics data jpg jpeg png all"
GENERIC = frozenset(_GENERIC.split()) | UNLABELLED_FOLDERS
"""A folder with one of these names is not a class if it is the only folder."""
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?")


class NotALabel(ValueError):
    """A value that is not a class: a number that is not whole, or a list."""


def class_name(value: Any) -> str | None:
    """Return the class that a value names, or None for "no label": null, -1, NaN, an empty text.

    Booleans, enums, bytes and NumPy numbers are what they stand for; whole floats are whole numbers.

    Raises:
        NotALabel: a number that is not whole, or a list or mapping.
    """
    if isinstance(value, Enum):
        return class_name(value.value)
    if isinstance(value, np.generic):
        return class_name(value.item())
    if isinstance(value, bytes):
        return class_name(value.decode("utf-8", "backslashreplace"))
    if value is None or isinstance(value, bool):
        return None if value is None else str(value)
    if isinstance(value, float):
        return _of_float(value)
    if not isinstance(value, (int, str)):
        raise NotALabel(f"{type(value).__name__} {str(value)[:40]}")
    text = unicodedata.normalize("NFC", str(value).strip())
    return None if text in NO_LABEL else text


def _of_float(value: float) -> str | None:
    if math.isnan(value):
        return None
    if not value.is_integer():
        raise NotALabel(f"{value:g} is not a whole number")
    return class_name(int(value))


def class_names(values: Iterable[Any]) -> dict[Hashable, str | None]:
    """Return value -> class name for the different values of a column.

    Texts such as `3.0`, which CSV files have for numbers with gaps, are numbers if all values are. The values -1 and
    1 alone are two classes, not "no label" and one class.

    Raises:
        NotALabel: numbers that are not whole, or lists.
    """
    different = set(values)
    names = {value: class_name(value) for value in different}
    texts = [value.strip() for value in different if isinstance(value, str) and value.strip() not in NO_LABEL]
    if any("." in text for text in texts) and all(map(_NUMBER.fullmatch, texts)):
        names |= {
            value: class_name(float(value)) for value in different if names[value] and isinstance(value, str)
        }
    minus = [value for value in different if str(value).strip() in ("-1", "-1.0")]
    if minus and set(names.values()) - {None} == {"1"}:
        names |= dict.fromkeys(minus, "-1")
    return names


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Return class names in natural order: 0, 1, 2, ..., 10; a1, a2, a10."""
    return tuple(sorted(set(names), key=_natural))


def _natural(name: str) -> tuple[Any, ...]:
    if re.fullmatch(r"-?\d+", name, re.ASCII):
        return ((0, int(name), ""), (0, 0, name))
    pieces = re.split(r"(\d+)", name)
    return (*((0, int(p), "") if p.isdecimal() else (1, 0, p) for p in pieces if p), (0, 0, name))


def number_of(names: tuple[str, ...], label: int) -> int | None:
    """Return the index of the class that a number means: its name if all names are numbers, else its position."""
    try:
        numbers = [int(name) for name in names]
    except ValueError:
        return label if 0 <= label < len(names) else None
    return numbers.index(label) if numbers.count(label) == 1 else None


def folder_classes(
    folders: Mapping[str, tuple[str, ...]], known: frozenset[str] = frozenset()
) -> tuple[dict[str, str], str | None]:
    """Return path -> class, and the reason if folders are not used as classes.

    The first level of folders in which images differ gives the classes. Images that lie above it have no label.

    Args:
        folders: path -> the folders above the image, without those of the split.
        known: classes of the training split. A level with one of these names is the level of the classes.
    """
    below = {path: parts for path, parts in folders.items() if parts}
    level = 0
    while below:
        names = {parts[level] for parts in below.values()}
        deeper = {path: parts for path, parts in below.items() if len(parts) > level + 1}
        if len(names) > 1 or names & known:
            break
        if not deeper:
            return _one_class(names.pop(), below, whole=len(below) == len(folders))
        below, level = deeper, level + 1
    names_of = {path: unicodedata.normalize("NFC", parts[level]) for path, parts in below.items()}
    return {path: name for path, name in names_of.items() if name.lower() not in UNLABELLED_FOLDERS}, None


def _one_class(name: str, images: Iterable[str], whole: bool) -> tuple[dict[str, str], str | None]:
    if name.lower() in GENERIC:
        return {}, None
    if not whole:
        return {}, f"images both inside and outside of the only folder '{name}': the images have no labels"
    return dict.fromkeys(images, unicodedata.normalize("NFC", name)), None
