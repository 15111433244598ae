"""The rows of an image folder -> tables of `datasets`, one per split, all with the same columns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .captions import TEXT_NAMES
from .metadata import OTHER_IMAGE
from .metadata_files import plain

if TYPE_CHECKING:
    from datasets import Dataset, Features


@dataclass(frozen=True)
class ImageRow:
    """One row of a table: an image and its metadata."""

    path: str
    """Relative to the root."""
    values: Mapping[str, Any]


def build_tables(
    root: Path, splits: Mapping[str, Sequence[ImageRow]], labels: Mapping[str, str], names: Sequence[str]
) -> dict[str, Dataset]:
    """Return the table of each split.

    Args:
        labels: path -> class, for the images that have one.
        names: classes in order.
    """
    from datasets import Dataset, DatasetInfo

    rows = [one for members in splits.values() for row in members for one in _per_caption(row)]
    table, features = _columns(root, rows)
    if labels:
        table, features = _with_labels(table, features, [labels.get(row.path) for row in rows], names)
    tables, start = {}, 0
    for name, members in splits.items():
        count = sum(len(_per_caption(row)) for row in members)
        part = table.slice(start, count).combine_chunks()
        tables[name] = Dataset(part, info=DatasetInfo(features=features))
        start += count
    return tables


def _per_caption(row: ImageRow) -> list[ImageRow]:
    """One row per caption, if the metadata has a list of captions."""
    for key, value in row.values.items():
        if plain(key) in TEXT_NAMES and isinstance(value, list) and value:
            return [ImageRow(row.path, {**row.values, key: one}) for one in value]
    return [row]


def _columns(root: Path, rows: Sequence[ImageRow]) -> tuple[Any, Features]:
    keys = sorted({key for row in rows for key in row.values} - {"image"})
    values: dict[str, list[Any]] = {}
    images: dict[str, list[str | None]] = {"image": [str(root / row.path) for row in rows]}
    for key in keys:
        own = [row.values.get(key) for row in rows]
        if key.endswith(OTHER_IMAGE):
            images[key.removesuffix(OTHER_IMAGE)] = [None if v is None else str(root / v) for v in own]
        else:
            values[key] = own
    return _arrow_table(images, values)


def image_table(paths: Mapping[str, list[str | None]], values: Mapping[str, list[Any]]) -> Dataset:
    """Return a table of columns of images, by their paths, and of columns of other values."""
    from datasets import Dataset, DatasetInfo

    table, features = _arrow_table(paths, values)
    return Dataset(table, info=DatasetInfo(features=features))


def _arrow_table(
    paths: Mapping[str, list[str | None]], values: Mapping[str, list[Any]]
) -> tuple[Any, Features]:
    import pyarrow as pa
    from datasets import Features, Image

    columns = {name: _column(own) for name, own in values.items()}
    for name, own in paths.items():
        blank = pa.nulls(len(own), pa.binary())
        columns[name] = pa.StructArray.from_arrays([blank, pa.array(own, pa.string())], ["bytes", "path"])
    table = pa.table(columns)
    features = Features.from_arrow_schema(table.schema)
    return table, Features({**features, **dict.fromkeys(paths, Image(decode=False))})


def _column(values: list[Any]) -> Any:
    """An Arrow column of the values as given; as text if they are of several types. NaN is null."""
    import pyarrow as pa

    values = [None if isinstance(value, float) and math.isnan(value) else value for value in values]
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError):
        return pa.array([None if value is None else _text(value) for value in values], pa.string())


def _text(value: Any) -> str:
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value)) if whole else str(value)


def _with_labels(
    table: Any, features: Features, labels: Sequence[str | None], names: Sequence[str]
) -> tuple[Any, Features]:
    import pyarrow as pa
    from datasets import ClassLabel, Features

    index = {name: i for i, name in enumerate(names)}
    column = pa.array([None if name is None else index[name] for name in labels], pa.int64())
    if "label" in table.column_names:  # without any value
        table = table.drop_columns("label")
    return table.append_column("label", column), Features(
        {**features, "label": ClassLabel(names=list(names))}
    )
