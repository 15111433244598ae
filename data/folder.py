"""A folder of images -> tables by split.

Read here and not with `load_dataset("imagefolder")`, which was tried (datasets 5.2): one file named
`test_9.png` turns the data set into that one image; class names are lost beside metadata or where folders
nest unevenly; images without a row of metadata vanish unsaid; symlinks and names with [ ] * are not found.
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

log = logging.getLogger("imgtf")

IMAGE_KINDS = (
    "png jpg jpeg jpe jfif bmp dib gif webp tif tiff ppm pgm pbm pnm tga ico avif jp2 j2k pcx sgi qoi"
)
IMAGE_SUFFIXES = frozenset("." + kind for kind in IMAGE_KINDS.split())
OTHER_IMAGE = "_file_name"
"""End of the name of a metadata column that names another image: `source_file_name` becomes column `source`."""
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
TRAIN_NAMES = ("train", "training")
HELD_OUT_NAMES = ("validation", "val", "valid", "test", "testing")
SPLIT_NAMES = TRAIN_NAMES + HELD_OUT_NAMES


@dataclass(frozen=True)
class File:
    """One file below the root: its relative path with '/', its size and its time of change."""

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
    """Every file below root, sorted, through symlinks; hidden ones are left out."""
    files, seen = [], set()
    for folder, subs, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link to a folder above would go round for ever
            subs.clear()
            continue
        seen.add(real)
        subs[:] = sorted(s for s in subs if not s.startswith(".") and s != "__MACOSX")
        above = "" if folder == str(root) else os.path.relpath(folder, root).replace(os.sep, "/") + "/"
        files += [_file(root, above + name) for name in names if not name.startswith(".")]
    return sorted(files, key=lambda file: file.path)


def _file(root: Path, relative: str) -> File:
    try:
        relative.encode()
    except UnicodeEncodeError:
        raise DataError(f"{root}: the file name {relative!r} is not UTF-8; rename it") from None
    try:
        stat = os.stat(os.path.join(root, relative))
    except OSError:  # a dangling link: kept, so that reading it names it as a broken image
        return File(relative, 0, 0)
    return File(relative, stat.st_size, stat.st_mtime_ns)


def fingerprint(files: Iterable[File]) -> str:
    """Changes when a file is added, removed, renamed or written to; stays when the folder is moved."""
    lines = "\n".join(f"{file.path}\t{file.size}\t{file.changed}" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


def open_folder(root: Path, files: list[File]) -> dict[str, Dataset]:
    """The tables of an image folder: column `image`, `label` from sub-folders, and those of the metadata.

    Raises:
        DataError: no images, or metadata that cannot be read or names a file that is not there.
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
        # Half-labelled splits would only fail later: labels are kept where all splits have them.
        use = labels if all(path in labels for group in splits.values() for path in group) else {}
        tables[split] = _table(root, chosen, use, names)
    return tables


def _splits(root: Path, images: list[str]) -> dict[str, list[str]]:
    """By first folder, where those are the names of splits; else everything is 'train'."""
    groups: dict[str, list[str]] = {}
    for path in images:
        groups.setdefault(path.split("/")[0] if "/" in path else "", []).append(path)
    known = {name for name in groups if name.lower() in SPLIT_NAMES}
    train = any(name.lower() in TRAIN_NAMES for name in known)
    if not known or (known != set(groups) and not (train and len(known) > 1)):
        return {"train": images}  # also for classes that happen to be called so: train beside car and bus
    if other := sorted(set(groups) - known):
        log.warning("%s: %s left out, beside %s", root, ", ".join(f"'{o}/'" for o in other), sorted(known))
    return {name: groups[name] for name in groups if name in known}


def _labels(root: Path, images: list[str]) -> dict[str, str]:
    """Path -> class: the first folder in which the images differ; {} where some lie above the others."""
    folders = {path.rpartition("/")[0] for path in images}
    common = os.path.commonpath(folders) if "" not in folders else ""
    if folders == {common}:
        name = common.rpartition("/")[2]
        return {} if name.lower() in ("", *SPLIT_NAMES) else dict.fromkeys(images, name)
    if common in folders:
        log.warning(
            "%s: images both in '%s' and in folders below it: no labels are taken", root, common or "."
        )
        return {}
    start = len(common) + 1 if common else 0
    return {path: path[start:].split("/")[0] for path in images}


def _metadata_rows(root: Path, metadata: list[str], images: set[str]) -> dict[str, list[dict[str, Any]]]:
    """Path of an image -> its rows (several captions make several rows)."""
    found: dict[str, list[dict[str, Any]]] = {}
    for file in metadata:
        folder = file.rpartition("/")[0]
        for number, row in enumerate(_read_rows(root / file), start=1):
            name = row.pop("file_name", None)
            if not isinstance(name, str):
                raise DataError(f"{root / file}: row {number} has no file_name")
            path = os.path.normpath(os.path.join(folder, name)).replace(os.sep, "/")
            if path not in images:
                raise DataError(f"{root / file}: row {number} names {name}, which is not among the images")
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
        raise DataError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from None


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
        log.warning(
            "%s: %d of %d images have no row in the metadata and are left out, first %s",
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
    pictures = ["image"]
    for key in [key for key in keys if key.endswith(OTHER_IMAGE)]:
        files = pa.array(
            [None if row.get(key) is None else str(root / row[key]) for _, row in rows], pa.string()
        )
        pictures.append(key.removesuffix(OTHER_IMAGE))
        columns[pictures[-1]] = pa.StructArray.from_arrays([blank, files], ["bytes", "path"])
        del columns[key]
    features = Features.from_arrow_schema(pa.table(columns).schema)
    for name in pictures:
        features[name] = Image(decode=False)
    if labels and "label" not in keys:
        index = {name: i for i, name in enumerate(names)}
        columns["label"] = pa.array([index[labels[path]] for path, _ in rows], pa.int64())
        features["label"] = ClassLabel(names=names)
    return Dataset(pa.table(columns), info=DatasetInfo(features=features))


def _column(values: list[Any]) -> Any:
    """Whole numbers where all are (CSV knows only text), else as it comes, else as text."""
    import pyarrow as pa

    if all(v is None or (isinstance(v, str) and v.lstrip("-").isdecimal()) for v in values):
        values = [None if v is None else int(v) for v in values]
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError):
        return pa.array([None if v is None else str(v) for v in values], pa.string())
