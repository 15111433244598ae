"""Remote files copied to the cache folder of `datasets`, where they are read like local ones."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from pathlib import Path
from typing import Any

from filelock import FileLock

from ..runtime.durable import whole_file
from ..runtime.hub import datasets_cache
from .files import File
from .locations import RemoteFile, errors_of, remote_files

logger = logging.getLogger("imgtf")

INDEX = ".files.json"
"""In the folder of a mirror: relative path -> size and version of each complete file."""
TOGETHER = 256
"""Files that are requested together."""


def mirror(url: str) -> tuple[Path, list[File]]:
    """Copy the files of a URL that are not in the cache yet; return their folder and the files in it.

    One log line says how much is downloaded, and where to, before it begins.

    Raises:
        DataError: as `remote_files`, or the download fails. Complete files are kept.
    """
    fs, files = remote_files(url)
    name = re.sub(r"\W+", "-", url)[-40:].strip("-")
    root = Path(datasets_cache()) / "imgtf" / f"{name}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"
    with errors_of(str(root)):
        root.mkdir(parents=True, exist_ok=True)
    with FileLock(str(root) + ".lock"):  # of several processes, one downloads
        have = _index(root)
        wanted = [file for file in files if have.get(file.relative) != _identity(file)]
        if wanted:
            _announce(url, wanted, len(files), root)
            _download(fs, url, root, wanted, have)
        else:
            logger.info("%s: all %d files are in the cache, %s", url, len(files), root)
    return root, [_local(root, file) for file in files]


def _announce(url: str, wanted: list[RemoteFile], total: int, root: Path) -> None:
    sizes = [file.size for file in wanted if file.size is not None]
    amount = f"{sum(sizes) / 2**20:,.1f} MiB" if len(sizes) == len(wanted) else "of unknown size"
    logger.info(
        "%s: %d of %d files are downloaded (%s) to %s; HF_HOME sets another cache",
        url, len(wanted), total, amount, root,
    )  # fmt: skip


def _download(fs: Any, url: str, root: Path, wanted: list[RemoteFile], have: dict[str, Any]) -> None:
    """Copy files under other names and rename them when they are complete."""
    for start in range(0, len(wanted), TOGETHER):
        some = wanted[start : start + TOGETHER]
        targets = [root / file.relative for file in some]
        partial = [target.with_name(f".{target.name}.partial") for target in targets]
        with errors_of(url):
            for target in targets:
                target.parent.mkdir(parents=True, exist_ok=True)
            fs.get([file.path for file in some], [str(path) for path in partial])
            for file, own, target in zip(some, partial, targets, strict=True):
                os.replace(own, target)
                have[file.relative] = _identity(file)
            _write_index(root, have)


def _identity(file: RemoteFile) -> list[Any]:
    return [file.size, file.version]


def _index(root: Path) -> dict[str, Any]:
    try:
        content = json.loads((root / INDEX).read_text(encoding="utf-8"))
        return {name: own for name, own in content.items() if (root / name).is_file()}
    except (OSError, ValueError, AttributeError):
        return {}


def _write_index(root: Path, have: dict[str, Any]) -> None:
    with whole_file(root / INDEX) as temporary:
        temporary.write_text(json.dumps(have), encoding="utf-8")


def _local(root: Path, file: RemoteFile) -> File:
    stat = (root / file.relative).stat()
    version = hashlib.sha256(f"{file.size} {file.version}".encode()).hexdigest()
    return File(file.relative, stat.st_size, int(version[:12], 16))
