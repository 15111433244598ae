"""The label columns of the splits in use -> class names and the class of each row."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DataError
from .columns import column_values
from .findings import Notes, some
from .labels import NotALabel, class_names, in_order

if TYPE_CHECKING:
    from datasets import Dataset

MANY_CLASSES = 0.5
"""Classes per labelled row that suggest another kind of column, such as captions or identifiers."""
FEW_ROWS = 20
Labels = tuple[tuple[str, ...], list[np.ndarray | None]]
"""Class names, and per split the class of each row: (N,) int64, -1 for no label; None without classes."""


def table_labels(
    tables: dict[str, Dataset], columns: list[str | None], named: bool, where: str, notes: Notes
) -> Labels:
    """Return the classes of the training split, the first table, and the class of each row.

    A ClassLabel column has names. Other values are sorted in natural order, and their names are the values as text.

    Args:
        columns: label column of each table, or None.
        named: whether the user named the column.

    Raises:
        DataError: the named column holds values that are not classes.
    """
    if columns[0] is None:
        return (), [None] * len(tables)
    try:
        splits = [_names(table, column) for table, column in zip(tables.values(), columns, strict=True)]
    except NotALabel as error:
        if named:
            raise DataError(
                f"{where}: the column {columns[0]!r} does not hold class labels: {error}"
            ) from None
        notes.warn(f"{where}: the column {columns[0]!r} is not used as labels: {error}")
        return (), [None] * len(tables)
    classes = _classes(next(iter(tables.values())), columns[0], splits[0], where, notes)
    index = {name: i for i, name in enumerate(classes)}
    for split, names in zip(tables, splits, strict=True):
        _note_unlabelled(f"{where} {split}", names, index, notes)
    if not classes:
        return (), [None] * len(tables)
    return classes, [
        np.array([-1 if n is None else index.get(n, -1) for n in names], np.int64) for names in splits
    ]


def _classes(
    table: Dataset, column: str, names: list[str | None], where: str, notes: Notes
) -> tuple[str, ...]:
    """The classes of the training split in order."""
    given = getattr(table.features[column], "names", None)
    if given is not None:
        return tuple(given)
    classes = in_order(name for name in names if name is not None)
    labelled = len(names) - names.count(None)
    if labelled > FEW_ROWS and len(classes) > MANY_CLASSES * labelled:
        notes.warn(
            f"{where}: the column {column!r} has {len(classes)} classes in {labelled} rows; if these are captions, "
            f"use --text-column {column}"
        )
    return classes


def _names(table: Dataset, column: str | None) -> list[str | None]:
    """The class of each row by name."""
    if column is None:
        return [None] * len(table)
    values = column_values(table, column)
    names = getattr(table.features[column], "names", None)
    if names is not None:
        return [names[v] if v is not None and 0 <= v < len(names) else None for v in values]
    if any(not isinstance(value, Hashable) for value in values):
        raise NotALabel("its values are lists")
    known: dict[Any, str | None] = class_names(values)
    return [known[value] for value in values]


def _note_unlabelled(where: str, names: list[str | None], index: dict[str, int], notes: Notes) -> None:
    if without := sum(name is None for name in names):
        notes.warn(f"{where}: {without} of {len(names)} rows have no label; they are used without one")
    if unknown := [name for name in names if name is not None and name not in index]:
        notes.warn(
            f"{where}: {len(unknown)} of {len(names)} rows are of classes without training images "
            f"({some(in_order(unknown))}); they count as unlabelled"
        )
