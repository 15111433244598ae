"""The shards of a data set that is streamed: parquet or tar files of a folder, a URL, a pattern, or the Hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ConfigError, DataError
from .files import File, list_files
from .locations import is_pattern, is_url, local_files, local_path, remote_files
from .shards import split_names
from .tables import has_images, hub_files, looks_like_path, split_of

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")


class ShardFile(NamedTuple):
    """A shard."""

    path: str
    """Local path or URL."""
    identity: str
    """Name, size and version."""
    size: int = 0
    """Bytes; 0 if unknown."""


Splits = dict[str, list[ShardFile]]


def find_shards(src: str) -> tuple[str, Splits, str]:
    """Return the kind of the shards ("parquet" or "tar"), the shards of each split, and where they are in words.

    Raises:
        ConfigError: there are neither parquet nor tar files.
        DataError: no such data set.
    """
    src = local_path(src)
    if is_url(src):
        fs, files = remote_files(src)
        found = [
            (fs.unstrip_protocol(file.path), File(file.relative, file.size or 0, 0), f"{file.version}")
            for file in files
        ]
        return *_splits(src, found), "the shards behind the URL"
    path = Path(src).expanduser()
    if is_pattern(src):
        root, own = local_files(src)
    elif path.is_file():
        root, own = path.parent, [File(path.name, path.stat().st_size, path.stat().st_mtime_ns)]
    elif path.is_dir():
        root, own = path, list_files(path)
    elif looks_like_path(src):
        raise DataError(f"{src}: no such file or folder")
    else:
        return _of_hub(src)
    found = [(str(root / file.path), file, str(file.changed)) for file in own]
    return *_splits(src, found), "the shards"


def _splits(src: str, found: Sequence[tuple[str, File, str]]) -> tuple[str, Splits]:
    """The tar files, else the parquet files that hold images, by split."""
    tars = [own for own in found if own[1].path.lower().endswith(TAR_SUFFIXES)]
    tables = [own for own in found if own[1].suffix == ".parquet"]
    if tars and tables and has_images(tables[0][0]):
        raise ConfigError(
            f"{src}: {len(tars)} tar files and {len(tables)} parquet files: name one kind, with a pattern"
        )
    if not tars and not tables:
        raise ConfigError(
            f"{src}: --streaming reads parquet and tar shards, and there are none; image files and arrow files "
            f"are read from the disk without it"
        )
    chosen = tars or tables
    paths = [file.path for _, file, _ in chosen]
    names = split_names(paths) if tars else [split_of(file) for _, file, _ in chosen]
    if len(chosen) == 1:
        names = ["train"]
    splits: Splits = {}
    for name, (path, file, version) in zip(names, chosen, strict=True):
        splits.setdefault(name, []).append(ShardFile(path, f"{file.path} {file.size} {version}", file.size))
    return "tar" if tars else "parquet", splits


def _of_hub(src: str) -> tuple[str, Splits, str]:
    """The files of a data set of the Hub, by split, as `datasets` finds them."""
    files: dict[str, Any] = hub_files(src)
    splits = {name: [ShardFile(path, path) for path in paths] for name, paths in files.items()}
    paths = [path for own in files.values() for path in own]
    for kind, suffixes in (("parquet", (".parquet",)), ("tar", TAR_SUFFIXES)):
        if paths and all(path.lower().endswith(suffixes) for path in paths):
            return kind, splits, "the Hub"
    raise ConfigError(f"{src}: the Hub has it neither as parquet nor as tar files: leave out --streaming")
