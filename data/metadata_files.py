"""Files of metadata -> rows: CSV of any dialect, JSON, JSON lines and parquet."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..runtime.regular import open_regular
from .coco import coco_rows, is_coco

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
FILE_COLUMNS = (
    "file_name", "filename", "file", "image_file", "image_path", "image_name", "img_name", "img_path", "image",
    "img", "images", "path", "file_path", "filepath", "filenames", "imagename", "name", "key", "image_id", "imageid",
    "id",
)  # fmt: skip
"""Columns that name the image of a row, in order of preference."""
BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
DELIMITERS = ",;\t|"
MAX_FIELD = 2**30  # characters; the default of `csv` is 131,072

Row = tuple[str, dict[str, Any]]
"""Where the row is ("line 3"), and its values by column."""


def plain(column: str) -> str:
    """Return the name of a column in lower case, with `_` between words."""
    return column.strip().lower().replace(" ", "_").replace("-", "_")


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a metadata file.

    Raises:
        DataError: a row or the file cannot be read with certainty; names the file and the line.
    """
    try:
        return list(_READERS[path.suffix.lower()](path))
    except DataError:
        raise
    except Exception as error:  # ValueError, OSError, RecursionError, csv.Error, those of pyarrow
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path}: cannot be read ({reason:.200})") from None


def names_files(path: Path) -> bool:
    """Return whether the first line of a CSV file, which may be called .txt, has a column of file names."""
    if path.suffix.lower() not in (".csv", ".tsv", ".txt"):
        return False
    with open_regular(path) as file:
        first = file.readline(4096).decode("utf-8-sig", "replace").strip()
    names = first.split(_delimiter(first, ","))
    return len(names) > 1 and _has_file_column(names)


def read_text(path: Path) -> str:
    """Return the text of a file in UTF-8 or UTF-16, with or without a byte-order mark.

    Raises:
        DataError: another encoding; names the line.
    """
    try:
        with open_regular(path) as file:
            data = file.read()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    try:
        return data.decode(_encoding(data))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}: line {line} is not UTF-8 text (byte 0x{data[error.start]:02x}); convert the file, for example "
            f"with `iconv -f cp1252 -t utf-8`"
        ) from None


def _encoding(data: bytes) -> str:
    for mark, encoding in BOMS:
        if data.startswith(mark):
            return encoding
    # UTF-16 without a mark: the file starts with a Latin letter or a bracket, so one of two bytes is 0.
    return {0: "utf-16-be", 1: "utf-16-le"}.get(data[:2].find(b"\0"), "utf-8")


def _csv_rows(path: Path) -> Iterator[Row]:
    text = read_text(path)
    lines = csv_lines(path, text)
    _, header = next(lines, ("", []))
    if not any(header):
        raise DataError(f"{path}: the first line has no names of columns")
    if twice := [name for name in header if name and header.count(name) > 1]:
        raise DataError(f"{path}: two columns are called {twice[0]!r}")
    for where, fields in lines:
        if len(fields) != len(header):
            raise DataError(
                f"{path}: {where} has {len(fields)} fields, the header has {len(header)} "
                f"({', '.join(header)}): put texts with separators in double quotes"
            )
        # A column without a name is the index that pandas writes.
        yield where, {name: field or None for name, field in zip(header, fields, strict=True) if name}


def csv_lines(path: Path, text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield ("line 3", fields without outer spaces) of every line that is not empty. Raises DataError."""
    csv.field_size_limit(MAX_FIELD)
    if text[:4].lower() == "sep=":  # written by Excel
        text = text.partition("\n")[2]
    delimiter = _delimiter(text, "\t" if path.suffix.lower() == ".tsv" else ",")
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True
    )
    while True:
        where = f"line {reader.line_num + 1}"
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise DataError(f"{path}: {where} cannot be read as CSV ({error}): check its quotes") from None
        if fields is None:
            return
        if any(field.strip() for field in fields):
            yield where, [field.strip() for field in fields]


def _delimiter(text: str, usual: str) -> str:
    """The character that separates a column of file names from the others in the first line."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    order = sorted(DELIMITERS, key=lambda d: (d != usual, -first.count(d)))
    named = [d for d in order if d in first and _has_file_column(first.split(d))]
    return (named or [d for d in order if d in first] or [usual])[0]


def _has_file_column(header: list[str]) -> bool:
    return any(plain(name.strip('" ')) in FILE_COLUMNS for name in header)


def _json_rows(path: Path) -> Iterator[Row]:
    text = read_text(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        if len([line for line in text.splitlines() if line.strip()]) > 1 and text.lstrip()[:1] == "{":
            return _line_rows(path, text)
        raise DataError(f"{path}: not JSON: {error}") from None
    return _object_rows(path, content)


def _jsonl_rows(path: Path) -> Iterator[Row]:
    text = read_text(path)
    return _json_rows(path) if text.lstrip()[:2] in ("[{", "[\n") else _line_rows(path, text)


def _line_rows(path: Path, text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"line {number}", _json_line(path, number, line)


def _json_line(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: line {number} is not JSON: {error}") from None
    if not isinstance(row, dict):
        raise DataError(f"{path}: line {number} is not a JSON object")
    return row


def _object_rows(path: Path, content: Any) -> Iterator[Row]:
    """Rows of a JSON file.

    A list of objects or of pairs (file name, label); COCO; columns as lists; file name -> caption, label or object.
    """
    if is_coco(content):
        return coco_rows(path, content)
    if isinstance(content, dict) and len(content) == 1 and isinstance(next(iter(content.values())), list):
        content = next(iter(content.values()))  # {"data": [...]}
    if isinstance(content, list) and content and all(map(_is_pair, content)):  # dataset.json of StyleGAN
        content = [{"file_name": name, "label": label} for name, label in content]
    if isinstance(content, dict) and content and all(isinstance(v, list) for v in content.values()):
        content = _from_columns(path, content)
    elif isinstance(content, dict):
        return _by_name(path, content)
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise DataError(f"{path}: not a list of objects, one per image")
    return ((f"row {number}", row) for number, row in enumerate(content, start=1))


def _from_columns(path: Path, columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    if len({len(values) for values in columns.values()}) > 1:
        raise DataError(f"{path}: its lists have different lengths")
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _by_name(path: Path, content: dict[str, Any]) -> Iterator[Row]:
    if not all(value is None or isinstance(value, (str, int, float, dict)) for value in content.values()):
        raise DataError(f"{path}: not a list of objects, one per image")
    for name, value in content.items():
        other = {"text": value} if isinstance(value, str) else {"label": value}
        yield repr(name), {"file_name": name, **(value if isinstance(value, dict) else other)}


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = [f.name for f in pq.read_schema(path) if not pa.types.is_binary(f.type)]
    rows = pq.read_table(path, columns=columns).to_pylist()
    return ((f"row {number}", row) for number, row in enumerate(rows, start=1))


_READERS = {
    ".csv": _csv_rows,
    ".tsv": _csv_rows,
    ".txt": _csv_rows,
    ".json": _json_rows,
    ".jsonl": _jsonl_rows,
    ".parquet": _parquet_rows,
}
