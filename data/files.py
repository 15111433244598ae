"""The files of a folder, their kinds by suffix, and a fingerprint of them."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ..errors import DataError
from .findings import some

logger = logging.getLogger("imgtf")

IMAGE_KINDS = (
    "png jpg jpeg jpe jfif bmp dib gif webp tif tiff ppm pgm pbm pnm tga ico avif jp2 j2k pcx sgi qoi"
)
IMAGE_SUFFIXES = frozenset("." + kind for kind in IMAGE_KINDS.split())
PLUGINS = {".heic": "pillow_heif", ".heif": "pillow_heif", ".hif": "pillow_heif", ".jxl": "pillow_jxl"}
"""Suffixes that Pillow reads with a plugin: suffix -> module."""
PACKAGES = {"pillow_heif": "pillow-heif", "pillow_jxl": "pillow-jxl-plugin"}
OTHER_IMAGE_KINDS = "cr2 cr3 nef arw dng orf rw2 raf exr hdr psd svg dcm nii mha npy npz mp4 mov avi webm"
OTHER_IMAGE_SUFFIXES = frozenset("." + kind for kind in OTHER_IMAGE_KINDS.split())
"""Images, arrays and videos that Pillow does not read."""
ARCHIVE_SUFFIXES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")
SYSTEM_FOLDERS = ("__MACOSX", "lost+found")
"""Folders that are not part of a data set, and that may be closed to its reader."""


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

    @property
    def stem(self) -> str:
        """The path without its suffix."""
        return os.path.splitext(self.path)[0]


def list_files(root: Path) -> list[File]:
    """Return every file in a folder and its sub-folders, sorted. Follows symlinks, ignores hidden files.

    Raises:
        DataError: a folder cannot be read, or a name is not UTF-8.
    """
    files: list[File] = []
    above: dict[str, tuple[str, ...]] = {}  # folder -> its real path and those of the folders above
    endless = []
    for folder, subs, names in os.walk(root, onerror=_unreadable, followlinks=True):
        chain = above.get(os.path.dirname(folder), ())
        real = os.path.realpath(folder)
        if real in chain:
            endless.append(os.path.relpath(folder, root))
            subs.clear()
            continue
        above[folder] = (real, *chain)
        subs[:] = sorted(s for s in subs if not s.startswith(".") and s not in SYSTEM_FOLDERS)
        prefix = "" if folder == str(root) else os.path.relpath(folder, root).replace(os.sep, "/") + "/"
        files += [_file(root, prefix + name) for name in names if not name.startswith(".")]
    if endless:
        logger.warning("%s: links to a folder above them are not followed: %s", root, some(sorted(endless)))
    return sorted(files, key=lambda file: file.path)


def _unreadable(error: OSError) -> None:
    raise DataError(
        f"{error.filename}: the folder cannot be read ({error.strerror}): allow it, or move it out of the data set"
    ) from error


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


def image_suffixes() -> frozenset[str]:
    """Return the suffixes of image files that can be read here, with the plugins that are installed."""
    return IMAGE_SUFFIXES | {suffix for suffix, module in PLUGINS.items() if find_spec(module)}


def advice(suffix: str) -> str:
    """Return what to do about image files of a suffix that cannot be read."""
    if suffix in PLUGINS:
        return f"run `pip install {PACKAGES[PLUGINS[suffix]]}` (extra `formats`), or convert them to PNG"
    return "convert them to PNG or TIFF"
