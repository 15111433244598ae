"""Where files are: URLs that fsspec opens, and patterns such as `shards-{000000..000009}.tar` or `*.parquet`."""

from __future__ import annotations

import glob
import os
import posixpath
import re
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import unquote, urlsplit

from ..errors import DataError
from ..runtime.regular import open_regular
from .captions import SUFFIXES as CAPTION_SUFFIXES
from .files import IMAGE_SUFFIXES, PLUGINS, File
from .metadata_files import SUFFIXES as METADATA_SUFFIXES

SHARD_SUFFIXES = (".parquet", ".arrow", ".tar", ".tar.gz", ".tgz")
READ_SUFFIXES = (*SHARD_SUFFIXES, *IMAGE_SUFFIXES, *PLUGINS, *CAPTION_SUFFIXES, *METADATA_SUFFIXES)
"""Files of a remote folder that may be read."""
MOST_FILES = 1_000_000
"""Names that a pattern may stand for."""
_REMOTE = "imgtf[remote]"
PACKAGES = dict.fromkeys(("s3", "s3a", "gs", "gcs", "http", "https"), _REMOTE) | {
    "az": "adlfs",
    "abfs": "adlfs",
}
"""What to install for the file systems that fsspec does not contain."""
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)(://|::)")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


@dataclass(frozen=True)
class RemoteFile:
    """A file of a file system of fsspec."""

    path: str
    """As the file system names it."""
    relative: str
    """Below the folder of the data set, with '/'."""
    size: int | None
    """Bytes, if the file system knows them."""
    version: str
    """Changes with the content: checksum or time of modification; "" if unknown."""


def is_url(src: str) -> bool:
    """Return whether a source is a URL, such as s3://bucket/folder. file:// is a local path."""
    return _URL.match(src) is not None


def local_path(src: str) -> str:
    """Return the path of a file:// URL; other sources are returned as they are."""
    return unquote(urlsplit(src).path) if src.startswith("file://") else src


def is_pattern(src: str) -> bool:
    """Return whether a name stands for several files. A file of this very name is no pattern."""
    return (glob.has_magic(src) or _BRACES.search(src) is not None) and not os.path.exists(src)


def expand_braces(pattern: str) -> list[str]:
    """Return the names of a pattern: `a-{08..10}.tar` is a-08.tar, a-09.tar, a-10.tar; `{x,y}` is x, y.

    Raises:
        DataError: a range that does not end, or more than a million names.
    """
    match = _BRACES.search(pattern)
    if match is None:
        return [pattern]
    before, after = pattern[: match.start()], pattern[match.end() :]
    names = [name for part in _parts(match[1], pattern) for name in expand_braces(f"{before}{part}{after}")]
    if len(names) > MOST_FILES:
        raise DataError(f"{pattern}: more than {MOST_FILES:,} names")
    return names


def _parts(inside: str, pattern: str) -> Sequence[str]:
    span = _RANGE.fullmatch(inside)
    if span is None:
        return inside.split(",")
    first, last = int(span[1]), int(span[2])
    if last < first or last - first >= MOST_FILES:
        raise DataError(f"{pattern}: the range {inside} has no end or more than {MOST_FILES:,} names")
    return [str(number).zfill(len(span[1])) for number in range(first, last + 1)]


def local_files(pattern: str) -> tuple[Path, list[File]]:
    """Return the files of a pattern, sorted by name, and the folder that contains them all.

    Raises:
        DataError: no file has such a name, or one of the names in braces is missing.
    """
    names = [os.path.expanduser(name) for name in expand_braces(pattern)]
    found = [sorted(glob.glob(name)) if glob.has_magic(name) else [name] for name in names]
    paths = [os.path.abspath(path) for own in found for path in own]
    if missing := [path for path in paths if not os.path.isfile(path)]:
        raise DataError(f"{pattern}: {len(missing)} of {len(paths)} are no files, the first is {missing[0]}")
    if not paths:
        raise DataError(f"{pattern}: no file has such a name")
    root = os.path.commonpath([os.path.dirname(path) for path in paths])
    return Path(root), [_local_file(root, path) for path in dict.fromkeys(paths)]


def _local_file(root: str, path: str) -> File:
    stat = os.stat(path)
    return File(os.path.relpath(path, root).replace(os.sep, "/"), stat.st_size, stat.st_mtime_ns)


def remote_files(url: str) -> tuple[Any, list[RemoteFile]]:
    """Return the file system of a URL, and the files of a folder, a file or a pattern that may be read, sorted.

    Raises:
        DataError: the package of the file system is missing, there are no such files, or they cannot be listed.
    """
    with errors_of(url):
        fs = file_system(url)
        infos: dict[str, dict[str, Any]] = {}
        for name in expand_braces(url):
            infos |= _listed(fs, fs._strip_protocol(name))
    paths = sorted(path for path in infos if _plain(path).lower().endswith(READ_SUFFIXES))
    if not paths:
        raise DataError(f"{url}: no images, parquet files or tar files there")
    root = posixpath.commonpath([posixpath.dirname(_plain(path)) for path in paths])
    return fs, [_remote(path, root, infos[path]) for path in paths]


def file_system(url: str) -> Any:
    """Return the file system of a URL. Raises DataError if its package is missing, or none has this protocol."""
    import fsspec

    protocol = url.partition("::")[0].partition("://")[0].lower()
    try:
        return fsspec.core.url_to_fs(url)[0]
    except ImportError as error:
        package = PACKAGES.get(protocol)
        advice = f'run `pip install "{package}"`' if package else str(error).splitlines()[0]
        raise DataError(f"{url}: {protocol}:// needs another package: {advice}") from None
    except ValueError as error:
        raise DataError(f"{url}: {str(error).splitlines()[0]}") from None


def open_file(path: str, from_start: bool = False) -> IO[bytes]:
    """Open a local file, or one behind a URL, which is read as it comes.

    Args:
        from_start: it is read from the start to the end. A web server then needs no requests for parts of it.
    """
    if not is_url(path):
        return open_regular(path)
    import fsspec

    whole = {"block_size": 0} if from_start and path.startswith(("http://", "https://")) else {}
    return cast(IO[bytes], fsspec.open(path, "rb", **whole).open())


@contextmanager
def errors_of(where: str) -> Iterator[None]:
    """Raise the errors of a file system as one line."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # each file system has its own types
        cause = error.__cause__ or error  # for a web server, fsspec raises FileNotFoundError from any error
        if isinstance(cause, FileNotFoundError) or getattr(cause, "status", 0) == 404:
            raise DataError(f"{where}: no such file or folder ({_line(error)})") from error
        raise DataError(f"{where}: cannot be read ({_line(cause)})") from error


def may_pass(error: DataError) -> bool:
    """Return whether an error of `errors_of` may be gone at the next attempt: a lost connection."""
    cause = error.__cause__
    cause = cause and (cause.__cause__ or cause)
    lasting = (tarfile.TarError, EOFError, ValueError, FileNotFoundError, PermissionError)
    return cause is not None and not isinstance(cause, lasting)


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__


def _listed(fs: Any, path: str) -> dict[str, dict[str, Any]]:
    """Path -> details of the files that a path stands for: itself, those below it, or those of a pattern."""
    if glob.has_magic(_plain(path)):
        return {name: info for name, info in fs.glob(path, detail=True).items() if info["type"] == "file"}
    if _plain(path).lower().endswith(READ_SUFFIXES):
        return {path: fs.info(path)}
    found = fs.find(path, detail=True)
    hidden = re.compile(r"/\.|/__MACOSX/")
    return {name: info for name, info in found.items() if not hidden.search(name[len(path) :])}


def _remote(path: str, root: str, info: dict[str, Any]) -> RemoteFile:
    keys = ("ETag", "etag", "md5Hash", "LastModified", "last_modified", "mtime", "updated", "created")
    version = next((str(info[key]) for key in keys if info.get(key)), "")
    relative = _plain(path)[len(root) :].lstrip("/")
    if ".." in relative.split("/"):
        raise DataError(f"{path}: the name leads out of its folder")
    return RemoteFile(path, relative, info.get("size"), version)


def _plain(path: str) -> str:
    """A path without the server and the query of an http URL."""
    return unquote(urlsplit(path).path) if path.startswith(("http://", "https://")) else path
