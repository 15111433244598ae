"""Samples in tar files, as webdataset and img2dataset write them: 0001.jpg, 0001.cls and 0001.txt are one sample.

`load_dataset("webdataset")` of datasets 5.2 is not used, for these reasons: it copies all images to its cache; it drops
the image of every sample whose suffix differs from that of the first samples; labels that are text are an error, and so
is one missing member in the first five samples.
"""

from __future__ import annotations

import json
import logging
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any, Literal, Self

from ..errors import DataError
from ..runtime.regular import open_regular
from .cells import member_path
from .files import IMAGE_SUFFIXES, PLUGINS

logger = logging.getLogger("imgtf")

IMAGE_FIELDS = frozenset(suffix[1:] for suffix in IMAGE_SUFFIXES | set(PLUGINS))
TEXT_FIELDS = ("txt", "text", "caption")
SIDECARS = (*TEXT_FIELDS, "cls", "json")
MOST_SIDECAR = 2**24
"""Bytes of a caption, label or JSON file. Longer ones are no such files."""
MOST_IMAGES = 8
"""Images of one sample. More are a sign of names that contain dots."""
_NAME = re.compile(r"((?:.*/|)[^./][^.]*)\.([^/]+)", re.DOTALL)


class NotSamples(DataError):
    """A tar file that holds no samples."""


@dataclass
class Sample:
    """One sample: its images as cells, and its label, caption and JSON values."""

    key: str
    """Path in the tar file up to the first dot of the name."""
    images: dict[str, Any] = field(default_factory=dict)
    """Suffix in lower case -> {bytes, path}."""
    values: dict[str, Any] = field(default_factory=dict)
    """`label`, `text`, and the texts and numbers of the JSON file by name."""


def samples_in_place(path: str) -> Iterator[Sample]:
    """Yield the samples of a tar file on disk, with the places of its images instead of their bytes.

    Raises:
        NotSamples: the file is compressed.
        DataError: the file is damaged, or is no tar file.
    """
    with _errors(path), open_regular(path) as file, _opened(file, "r:") as archive:
        yield from _grouped(archive, path, in_place=True)


def samples_in_stream(path: str, file: IO[bytes], skip: int = 0) -> Iterator[Sample]:
    """Yield the samples of a tar file that is read from the start to the end, and may be compressed.

    Args:
        skip: first samples that are not wanted.

    Raises:
        DataError: the file is damaged, or is no tar file.
    """
    with _errors(path), _opened(file, "r|*") as archive:
        yield from _grouped(archive, path, in_place=False, skip=skip)


class _Member(tarfile.TarInfo):
    """A member whose damaged header is an error. `tarfile` takes one after the first for the end of the file."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(archive)
        except tarfile.HeaderError as error:
            kind = type(error).__name__
            if kind in ("InvalidHeaderError", "TruncatedHeaderError"):
                raise tarfile.ReadError(f"{error} at byte {archive.offset:,}") from error
            if kind == "EmptyHeaderError" and archive.offset:
                logger.warning("%s: the mark at the end is missing: it may have been cut", archive.name)
            raise


def _opened(file: IO[bytes], mode: Literal["r:", "r|*"]) -> tarfile.TarFile:
    return tarfile.open(getattr(file, "name", None), mode, fileobj=file, tarinfo=_Member)


@contextmanager
def _errors(path: str) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, EOFError) as error:
        if isinstance(error, tarfile.ReadError) and _is_compressed(path):
            raise NotSamples(f"{path}: compressed, so its samples cannot be read in place") from None
        raise DataError(f"{path}: no tar file, or a damaged one ({error})") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error


def _is_compressed(path: str) -> bool:
    try:
        with open_regular(path) as file:
            return file.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"))
    except OSError:
        return False


def _grouped(archive: tarfile.TarFile, path: str, in_place: bool, skip: int = 0) -> Iterator[Sample]:
    """Members with the same key, one after the other, are one sample. Samples without an image are left out."""
    sample = Sample("")
    count = 0  # complete samples
    for member in archive:
        archive.members = []  # type: ignore[attr-defined]  # would hold every header
        match = _NAME.fullmatch(member.name.removeprefix("./"))
        if not match or not member.isreg():
            continue
        if match[1] != sample.key:
            if sample.images and count >= skip:
                yield sample
            count += bool(sample.images)
            sample = Sample(match[1])
        if count >= skip:
            _add(sample, match[2].lower(), archive, member, path if in_place else "")
        elif _is_image(match[2]):
            sample.images[match[2]] = None
    if sample.images and count >= skip:
        yield sample


def _is_image(name: str) -> bool:
    return name.lower().rpartition(".")[2] in IMAGE_FIELDS


def _add(sample: Sample, name: str, archive: tarfile.TarFile, member: tarfile.TarInfo, tar: str) -> None:
    """Add a member to its sample. `tar`: file that an image stays in; "" to read it."""
    if _is_image(name):
        path = member_path(tar, member.name, member.offset_data, member.size) if tar else None
        sample.images[name] = {"bytes": None if tar else _read(archive, member), "path": path}
    elif name in SIDECARS and member.size <= MOST_SIDECAR:
        data = _read(archive, member)
        if name == "json":
            sample.values = _scalars(data) | sample.values
        else:
            text = data.decode("utf-8-sig", "replace")
            sample.values["label" if name == "cls" else "text"] = " ".join(text.split())


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    return b"" if file is None else file.read()


def _scalars(data: bytes) -> dict[str, Any]:
    """The texts and numbers of a JSON object; {} if it is not JSON."""
    try:
        content = json.loads(data)
    except ValueError:
        return {}
    if not isinstance(content, dict):
        return {}
    return {k: v for k, v in content.items() if isinstance(v, (str, int, float))}
