"""One Arrow file of labels, captions and fixed-size arrays: written row by row, checked, and memory-mapped.

R: rows of one block of the file.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError

BLOCK = 1024  # rows per block
HALF_LIMIT = 65504.0  # largest float16


@dataclass(frozen=True)
class CacheColumn:
    """One array per image, for example the codes of a conditioning image or the features of a caption."""

    name: str
    shape: tuple[int, ...]
    codebook_size: int = 0
    """Above 0: whole numbers in [0, codebook_size). 0: float16 values."""
    origin: str = ""
    """Identity of what made the values: data fingerprint, tokenizer hash, name of the text encoder."""
    per_crop: bool = False
    """Whether each crop and each flip has its own array, as for the codes."""


def write_table(path: Path, columns: Mapping[str, CacheColumn], rows: Iterable[Mapping[str, Any]]) -> int:
    """Write `label`, `text` and the named arrays of every row; return the number of rows.

    Raises:
        DataError: an array has another shape or type than its column, or values out of range.
    """
    import pyarrow as pa

    schema = pa.schema({"label": pa.int64(), "text": pa.string()})
    for name, column in columns.items():
        schema = schema.append(pa.field(name, pa.list_(_value_type(column), prod(column.shape))))
    count = 0
    with path.open("wb") as file:
        with pa.ipc.new_stream(file, schema) as writer:  # the format that `datasets` maps
            for block in _blocks(rows):
                writer.write_batch(_batch(block, count, columns, schema))
                count += len(block)
        file.flush()
        os.fsync(file.fileno())
    return count


def _value_type(column: CacheColumn) -> Any:
    import pyarrow as pa

    if not column.codebook_size:
        return pa.float16()
    return pa.uint16() if column.codebook_size <= 2**16 else pa.uint32()


def _blocks(rows: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    block = []
    for row in rows:
        block.append(row)
        if len(block) == BLOCK:
            yield block
            block = []
    if block:
        yield block


def _batch(
    block: list[Mapping[str, Any]], start: int, columns: Mapping[str, CacheColumn], schema: Any
) -> Any:
    import pyarrow as pa

    def array(field: Any) -> Any:
        if field.name == "label":
            return pa.array([-1 if r.get("label") is None else int(r["label"]) for r in block], field.type)
        if field.name == "text":
            return pa.array([r.get("text") or None for r in block], field.type)
        column = columns[field.name]
        flat = [_checked(r.get(field.name), start + i, field.name, column) for i, r in enumerate(block)]
        values = np.concatenate(flat).astype(field.type.value_type.to_pandas_dtype())
        return pa.FixedSizeListArray.from_arrays(pa.array(values), field.type.list_size)

    return pa.record_batch([array(field) for field in schema], schema=schema)


def _checked(value: Any, row: int, name: str, column: CacheColumn) -> np.ndarray:
    """The flat values of one row, or a DataError."""
    array, size = np.asarray(value), column.codebook_size
    kinds, expected = ("iu", "whole numbers") if size else ("fiu", "numbers")
    if array.shape != tuple(column.shape) or array.dtype.kind not in kinds:
        shape = tuple(column.shape)
        raise DataError(f"row {row}: {name} is {array.dtype} {array.shape}, expected {expected} {shape}")
    low, high = array.min(), array.max()
    lowest, highest = (0, size - 1) if size else (-HALF_LIMIT, HALF_LIMIT)
    if not (low >= lowest and high <= highest):  # also for NaN
        limit = f"the codebook has {size}" if size else "float16 cannot hold them"
        raise DataError(f"row {row}: {name} has values from {low} to {high}, {limit}")
    return array.reshape(-1)


def map_tables(paths: Sequence[Path]) -> Any:
    """Memory-map files that `write_table` wrote, as one table."""
    import pyarrow as pa
    from datasets import Dataset

    for path in paths:
        if not path.is_file():
            raise FileNotFoundError("the file is missing")
    tables = [Dataset.from_file(str(path)).data.table for path in paths]
    return tables[0] if len(tables) == 1 else pa.concat_tables(tables)


def array_blocks(column: Any, shape: tuple[int, ...]) -> list[np.ndarray]:
    """Return the arrays of a column as views (R, *shape) into the mapped file, one per block."""
    return [chunk.flatten().to_numpy(zero_copy_only=True).reshape(-1, *shape) for chunk in column.chunks]
