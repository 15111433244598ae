"""Shards that are read from the start to the end: parquet and tar files, local or behind a URL, never copied."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple, Protocol, cast

from ..errors import DataError
from .cells import content_of, read_cell
from .columns import Columns, caption_in
from .locations import errors_of, open_file
from .shards import IMAGE, cell_of, check_samples, image_columns
from .tar import Sample, Skipped, samples_in_stream

logger = logging.getLogger("imgtf")

INSPECTED = 100
"""Samples of a tar file that decide about the columns."""
BATCH = 64
"""Rows of a parquet file that are converted together."""


class Raw(NamedTuple):
    """One sample as the shard holds it."""

    image: bytes
    """Encoded."""
    label: Any
    text: str | None
    where: str
    """File and row, or name in the tar file."""


class Shards(Protocol):
    """The shards of a split. Their number of samples is not known."""

    paths: Sequence[str]

    def features(self) -> Mapping[str, Any]: ...
    def read(self, shard: int, row: int, columns: Columns) -> Iterator[Raw]: ...


class ParquetShards:
    """Parquet files. Row groups before the first row that is wanted are not read."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = paths

    def features(self) -> Mapping[str, Any]:
        """Return the columns of the first shard with their types."""
        import pyarrow.parquet as pq
        from datasets import Features

        with errors_of(self.paths[0]), open_file(self.paths[0]) as file:
            return cast(Mapping[str, Any], Features.from_arrow_schema(pq.read_schema(file)))

    def read(self, shard: int, row: int, columns: Columns) -> Iterator[Raw]:
        """Yield the samples of a shard from a row on. Raises DataError."""
        import pyarrow.parquet as pq

        path = self.paths[shard]
        names = [name for name in (columns.image, columns.label, columns.text) if name]
        with errors_of(path), open_file(path) as file:
            table = pq.ParquetFile(file)
            _check_columns(path, names, table.schema_arrow.names)
            groups, first = _groups_from(table.metadata, row)
            batches = table.iter_batches(BATCH, row_groups=groups, columns=names, use_threads=False)
            rows = (own for batch in batches for own in batch.to_pylist())
            for number, own in enumerate(islice(rows, row - first, None), row):
                where = f"row {number} of {path}"
                text = caption_in(own[columns.text]) if columns.text else None
                yield Raw(_bytes(own[columns.image]), own.get(columns.label or ""), text, where)


class TarShards:
    """Tar files of samples, also compressed ones."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = paths
        with errors_of(paths[0]), open_file(paths[0], from_start=True) as file:
            self._first = list(islice(samples_in_stream(paths[0], file), INSPECTED))
        check_samples(paths[0], self._first)
        self._columns = image_columns(self._first)
        self._told: set[int] = set()  # shards of which it was said what is not read

    def features(self) -> Mapping[str, Any]:
        """Return the columns of the first samples with their types."""
        from datasets import Image, Value

        keys = sorted({key for sample in self._first for key in sample.values} - set(self._columns))
        images = {name: Image(decode=False) for name in self._columns}
        return images | dict.fromkeys(keys, Value("string"))

    def read(self, shard: int, row: int, columns: Columns) -> Iterator[Raw]:
        """Yield the samples of a shard from a row on. Raises DataError."""
        path = self.paths[shard]
        if columns.image not in self._columns:
            known = ", ".join(self._columns)
            raise DataError(
                f"{path}: the column {columns.image!r} holds no images; those that do are {known}"
            )
        with errors_of(path), open_file(path, from_start=True) as file:
            skipped = Skipped()
            for sample in samples_in_stream(path, file, row, skipped):
                yield self._raw(sample, columns, path)
        self._tell(shard, skipped)

    def _tell(self, shard: int, skipped: Skipped) -> None:
        """Log once what is not read of a shard, after its last sample."""
        for line in skipped.lines() if shard not in self._told else ():
            logger.warning("%s: %s", self.paths[shard], line)
        self._told.add(shard)

    def _raw(self, sample: Sample, columns: Columns, path: str) -> Raw:
        # Also by a suffix that the first samples lack, as `image_columns` would name it.
        name = "" if columns.image == IMAGE else columns.image
        more = [suffix for suffix in sample.images if suffix.rpartition(".")[0] == name]
        cell = cell_of(sample, [*self._columns[columns.image], *more])
        label, text = (sample.values.get(name or "") for name in (columns.label, columns.text))
        return Raw(_bytes(cell), label, caption_in(text), f"{path}:{sample.key}")


def _check_columns(path: str, wanted: Sequence[str], present: Sequence[str]) -> None:
    if missing := [name for name in wanted if name not in present]:
        raise DataError(f"{path}: no column {missing[0]!r}, which the first shard has")


def _groups_from(metadata: Any, row: int) -> tuple[list[int], int]:
    """The row groups from that of a row on, and the number of the first row in them."""
    first = 0
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group).num_rows
        if first + rows > row:
            return list(range(group, metadata.num_row_groups)), first
        first += rows
    return [], first


def _bytes(cell: Any) -> bytes:
    """The encoded image, or b"" for one that cannot be read, which decoding reports."""
    content = content_of(cell)
    if not isinstance(content, str):
        return bytes(content)
    try:
        return read_cell(content)
    except OSError:
        return b""
