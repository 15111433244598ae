"""A folder of images -> tables by split.

`load_dataset("imagefolder")` of datasets 5.2 is not used, for these reasons: with one file named `test_9.png`, the data
set consists of that image only; class names are lost if there is metadata or folders are nested unevenly; images
without a row of metadata are dropped silently; symlinks and names with [ ] * are not found.
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger("imgtf")

IMAGE_KINDS = (
    "png jpg jpeg jpe jfif bmp dib gif webp tif tiff ppm pgm pbm pnm tga ico avif jp2 j2k pcx sgi qoi"
)
IMAGE_SUFFIXES = frozenset("." + kind for kind in IMAGE_KINDS.split())
OTHER_IMAGE = "_file_name"
"""Suffix of a metadata column with paths of other images: `edges_file_name` becomes the image column `edges`."""
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
TRAIN_NAMES = ("train", "training")
HELD_OUT_NAMES = ("validation", "val", "valid", "test", "testing")
SPLIT_NAMES = TRAIN_NAMES + HELD_OUT_NAMES


@dataclass(frozen=True)
class File:
    """One file in a folder: its relative path with '/', its size and its modification time."""

    path: str
    size: int
    changed: int

    @property
    def suffix(self) -> str:
        return os.path.splitext(self.path)[1].lower()

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


def list_files(root: Path) -> list[File]:
    """Return every file in a folder and its sub-folders, sorted. Follows symlinks, ignores hidden files."""
    files, seen = [], set()
    for folder, subs, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link to a parent folder would never end
            subs.clear()
            continue
        seen.add(real)
        subs[:] = sorted(s for s in subs if not s.startswith(".") and s != "__MACOSX")
        prefix = "" if folder == str(root) else os.path.relpath(folder, root).replace(os.sep, "/") + "/"
        files += [_file(root, prefix + name) for name in names if not name.startswith(".")]
    return sorted(files, key=lambda file: file.path)


def _file(root: Path, relative: str) -> File:
    try:
        relative.encode()
    except UnicodeEncodeError:
        raise DataError(f"{root}: the file name {relative!r} is not UTF-8; rename it") from None
    try:
        stat = os.stat(os.path.join(root, relative))
    except OSError:  # a broken link: kept, so that it is reported as an unreadable image
        return File(relative, 0, 0)
    return File(relative, stat.st_size, stat.st_mtime_ns)


def fingerprint(files: Iterable[File]) -> str:
    """Return a hash that changes if a file is added, removed, renamed or modified, but not if the folder is moved."""
    lines = "\n".join(f"{file.path}\t{file.size}\t{file.changed}" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


def open_folder(root: Path, files: list[File]) -> dict[str, Dataset]:
    """Return the tables of an image folder: column `image`, `label` from sub-folders, and the metadata columns.

    Raises:
        DataError: no images, or metadata that cannot be read or names a file that does not exist.
    """
    images = [file.path for file in files if file.suffix in IMAGE_SUFFIXES]
    metadata = [file.path for file in files if file.name in METADATA]
    if not images:
        raise DataError(
            f"{root}: no images (such as .png, .jpg or .webp) and no parquet or arrow files in it"
        )
    splits = _splits(root, images)
    rows = _metadata_rows(root, metadata, set(images)) if metadata else None
    labels: dict[str, str] = {}
    for members in splits.values():
        labels |= _labels(root, members)
    names = sorted(set(labels.values()))
    tables = {}
    for split, members in splits.items():
        chosen = _with_metadata(root, members, rows)
        # Labels are used only if all splits have them: a split without labels would fail later.
        use = labels if all(path in labels for group in splits.values() for path in group) else {}
        tables[split] = _table(root, chosen, use, names)
    return tables


def _splits(root: Path, images: list[str]) -> dict[str, list[str]]:
    """Group the images by their first folder if those are names of splits; else all images are 'train'."""
    groups: dict[str, list[str]] = {}
    for path in images:
        groups.setdefault(path.split("/")[0] if "/" in path else "", []).append(path)
    known = {name for name in groups if name.lower() in SPLIT_NAMES}
    train = any(name.lower() in TRAIN_NAMES for name in known)
    if not known or (known != set(groups) and not (train and len(known) > 1)):
        return {"train": images}  # also classes with the name of a split: train, car, bus
    if other := sorted(set(groups) - known):
        ignored = ", ".join(f"'{o}/'" for o in other)
        logger.warning(
            "%s: %s ignored, because the other folders are splits: %s", root, ignored, sorted(known)
        )
    return {name: groups[name] for name in groups if name in known}


def _labels(root: Path, images: list[str]) -> dict[str, str]:
    """Path -> class: the first folder level with different names. {} if images are on different levels."""
    folders = {path.rpartition("/")[0] for path in images}
    common = os.path.commonpath(folders) if "" not in folders else ""
    if folders == {common}:
        name = common.rpartition("/")[2]
        return {} if name.lower() in ("", *SPLIT_NAMES) else dict.fromkeys(images, name)
    if common in folders:
        logger.warning(
            "%s: images both in '%s' and in its sub-folders: the images have no labels", root, common or "."
        )
        return {}
    start = len(common) + 1 if common else 0
    return {path: path[start:].split("/")[0] for path in images}


def _metadata_rows(root: Path, metadata: list[str], images: set[str]) -> dict[str, list[dict[str, Any]]]:
    """Path of an image -> its rows (one per caption)."""
    found: dict[str, list[dict[str, Any]]] = {}
    for file in metadata:
        folder = file.rpartition("/")[0]
        for number, row in enumerate(_read_rows(root / file), start=1):
            name = row.pop("file_name", None)
            if not isinstance(name, str):
                raise DataError(f"{root / file}: row {number} has no file_name")
            path = os.path.normpath(os.path.join(folder, name)).replace(os.sep, "/")
            if path not in images:
                raise DataError(f"{root / file}: row {number}: no image {name}")
            for key in [key for key in row if key.endswith(OTHER_IMAGE) and row[key] is not None]:
                row[key] = os.path.normpath(os.path.join(folder, str(row[key]))).replace(os.sep, "/")
            found.setdefault(path, []).append(row)
    return found


def _read_rows(path: Path) -> list[dict[str, Any]]:
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet as pq

            return pq.read_table(path).to_pylist()
        with path.open(newline="", encoding="utf-8-sig") as lines:
            if path.suffix == ".csv":
                return [{k: v or None for k, v in row.items() if k} for row in csv.DictReader(lines)]
            return [_json_row(path, n, line) for n, line in enumerate(lines, start=1) if line.strip()]
    except (ValueError, OSError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from None


def _json_row(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{path}: line {number} is not JSON: {error}") from None
    if not isinstance(row, dict):
        raise DataError(f"{path}: line {number} is not a JSON object")
    return row


Row = tuple[str, dict[str, Any]]


def _with_metadata(root: Path, images: list[str], rows: dict[str, list[dict[str, Any]]] | None) -> list[Row]:
    if rows is None:
        return [(path, {}) for path in images]
    if missing := [path for path in images if path not in rows]:
        logger.warning(
            "%s: %d of %d images have no row in the metadata and are ignored; the first is %s",
            root, len(missing), len(images), missing[0],
        )  # fmt: skip
    return [(path, row) for path in images for row in rows.get(path, [])]


def _table(root: Path, rows: list[Row], labels: dict[str, str], names: list[str]) -> Dataset:
    import pyarrow as pa
    from datasets import ClassLabel, Dataset, DatasetInfo, Features, Image

    keys = sorted({key for _, row in rows for key in row} - {"image"})
    columns: dict[str, Any] = {key: _column([row.get(key) for _, row in rows]) for key in keys}
    paths = pa.array([str(root / path) for path, _ in rows], pa.string())
    blank = pa.nulls(len(rows), pa.binary())
    columns["image"] = pa.StructArray.from_arrays([blank, paths], ["bytes", "path"])
    image_columns = ["image"]
    for key in [key for key in keys if key.endswith(OTHER_IMAGE)]:
        files = pa.array(
            [None if row.get(key) is None else str(root / row[key]) for _, row in rows], pa.string()
        )
        image_columns.append(key.removesuffix(OTHER_IMAGE))
        columns[image_columns[-1]] = pa.StructArray.from_arrays([blank, files], ["bytes", "path"])
        del columns[key]
    features = Features.from_arrow_schema(pa.table(columns).schema)
    for name in image_columns:
        features[name] = Image(decode=False)
    if labels and "label" not in keys:
        index = {name: i for i, name in enumerate(names)}
        columns["label"] = pa.array([index[labels[path]] for path, _ in rows], pa.int64())
        features["label"] = ClassLabel(names=names)
    return Dataset(pa.table(columns), info=DatasetInfo(features=features))


def _column(values: list[Any]) -> Any:
    """An Arrow column: whole numbers if all values are (CSV has only text), else as given, else text."""
    import pyarrow as pa

    if all(v is None or (isinstance(v, str) and v.lstrip("-").isdecimal()) for v in values):
        values = [None if v is None else int(v) for v in values]
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError):
        return pa.array([None if v is None else str(v) for v in values], pa.string())
