"""Samples in tar files, as webdataset and img2dataset write them: 0001.jpg, 0001.cls and 0001.txt are one sample.

`load_dataset("webdataset")` of datasets 5.2 is not used, for these reasons: it copies all images to its cache; it drops
the image of every sample whose suffix differs from that of the first samples; labels that are text are an error, and so
is one missing member in the first five samples.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
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
REMEMBERED = 1000
"""First samples of a stream that are compared with later ones, to find parts that lie apart."""
NO_IMAGE = "samples without an image, which are left out"
NO_JSON = "JSON files that hold no object or are damaged, which are not read"
NOT_UTF8 = "captions and labels that are not UTF-8 text, which are not read"
TOO_LONG = "captions, labels and JSON files of more than 16 MiB, which are not read"
APART = "files that do not follow the others of their sample, which are joined with them by name"
AGAIN = "samples with the name of an earlier one, which are samples of their own"
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
    suffixes: list[str] = field(default_factory=list)
    """Of all members that belong to the sample."""


class Skipped:
    """What is not read of tar files, or not as it lies there: counts and first examples."""

    def __init__(self) -> None:
        self._counts = Counter[str]()
        self._first: dict[str, str] = {}

    def add(self, what: str, where: str, count: int = 1) -> None:
        """Count something. `where`: the member or the sample."""
        self._counts[what] += count
        self._first.setdefault(what, where)

    def lines(self) -> list[str]:
        """Return one line per kind."""
        return [f"{what}: {count} (first {self._first[what]})" for what, count in self._counts.items()]


def samples_in_place(path: str, skipped: Skipped) -> list[Sample]:
    """Return the samples of a tar file on disk, with the places of its images instead of their bytes.

    The members of a sample may lie apart.

    Raises:
        NotSamples: the file is compressed.
        DataError: the file is damaged, or is no tar file.
    """
    with _errors(path), open_regular(path) as file, _opened(file, "r:") as archive:
        samples = _joined(_runs(archive, path, skipped), skipped)
    return [sample for sample in samples if _has_image(sample, skipped)]


def samples_in_stream(
    path: str, file: IO[bytes], skip: int = 0, skipped: Skipped | None = None
) -> Iterator[Sample]:
    """Yield the samples of a tar file that is read from the start to the end, and may be compressed.

    Args:
        skip: first samples that are not wanted.

    Raises:
        DataError: the file is damaged, is no tar file, or the members of a sample lie apart.
    """
    skipped = skipped or Skipped()
    first: dict[str, list[str]] = {}
    number = 0
    with _errors(path), _opened(file, "r|*") as archive:
        for sample in _runs(archive, "", skipped, skip):
            _check_order(sample, first, path)
            if _has_image(sample, skipped):
                number += 1
                if number > skip:
                    yield sample


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


def _runs(archive: tarfile.TarFile, tar: str, skipped: Skipped, skip: int = 0) -> Iterator[Sample]:
    """Yield the members with the same key, one after the other, as one sample each, also without an image.

    Args:
        tar: file that the images stay in; "" to read them.
        skip: first samples with an image of which nothing is read.
    """
    sample = Sample("")
    count = 0  # samples with an image
    for member in archive:
        archive.members = []  # type: ignore[attr-defined]  # would hold every header
        match = _NAME.fullmatch(member.name.removeprefix("./"))
        if match is None or not member.isreg() or not _is_read(match[2]):
            _note_other(member, skipped)
            continue
        if match[1] != sample.key:
            if sample.suffixes:
                yield sample
            count += bool(sample.images)
            sample = Sample(match[1])
        name = sys.intern(match[2].lower())
        sample.suffixes.append(name)
        if count >= skip:
            _add(sample, name, archive, member, tar, skipped)
        elif _is_image(name):
            sample.images[name] = None
    if sample.suffixes:
        yield sample


def _joined(runs: Iterable[Sample], skipped: Skipped) -> list[Sample]:
    """The samples of which each run is a part. A suffix that a sample has begins another one of the same name."""
    samples: list[Sample] = []
    latest: dict[str, Sample] = {}
    for run in runs:
        earlier = latest.get(run.key)
        if earlier is not None and not set(earlier.suffixes) & set(run.suffixes):
            _join(earlier, run)
            skipped.add(APART, f"{run.key}.{run.suffixes[0]}", len(run.suffixes))
            continue
        if earlier is not None:
            skipped.add(AGAIN, run.key)
        latest[run.key] = run
        samples.append(run)
    return samples


def _join(sample: Sample, part: Sample) -> None:
    sample.images |= part.images
    weaker = "json" in part.suffixes  # a .cls or .txt file takes precedence
    sample.values = part.values | sample.values if weaker else sample.values | part.values
    sample.suffixes += part.suffixes


def _check_order(sample: Sample, first: dict[str, list[str]], path: str) -> None:
    """Raise DataError if a sample is a part of one of the first. `first`: key -> suffixes, completed here."""
    earlier = first.get(sample.key)
    if earlier is not None and not set(earlier) & set(sample.suffixes):
        raise DataError(
            f"{path}: the files of the sample {sample.key!r} do not follow each other, as a stream needs it: pack its "
            f"folder again with `tar --sort=name`, or leave out --streaming"
        )
    if len(first) < REMEMBERED:
        first[sample.key] = sample.suffixes


def _has_image(sample: Sample, skipped: Skipped) -> bool:
    if not sample.images:
        skipped.add(NO_IMAGE, sample.key)
    return bool(sample.images)


def _is_read(name: str) -> bool:
    return _is_image(name) or name.lower() in SIDECARS


def _note_other(member: tarfile.TarInfo, skipped: Skipped) -> None:
    """Count a member that is not read. Folders and hidden files are no part of the data."""
    name = member.name.rpartition("/")[2]
    if member.isdir() or name.startswith("."):
        return
    suffix = name.rpartition(".")[1:] if "." in name else ()
    kind = f"{''.join(suffix).lower()} files" if suffix else "files without a suffix"
    skipped.add(f"{kind if member.isreg() else 'links and devices'}, which are not read", member.name)


def _is_image(name: str) -> bool:
    return name.lower().rpartition(".")[2] in IMAGE_FIELDS


def _add(
    sample: Sample, name: str, archive: tarfile.TarFile, member: tarfile.TarInfo, tar: str, skipped: Skipped
) -> None:
    """Add a member to its sample. `tar`: file that an image stays in; "" to read it."""
    if _is_image(name):
        path = member_path(tar, member.name, member.offset_data, member.size) if tar else None
        sample.images[name] = {"bytes": None if tar else _read(archive, member), "path": path}
        return
    if member.size > MOST_SIDECAR:
        return skipped.add(TOO_LONG, member.name)
    data = _read(archive, member)
    content = _scalars(data) if name == "json" else _text(data)
    if content is None:
        skipped.add(NO_JSON if name == "json" else NOT_UTF8, member.name)
    elif isinstance(content, dict):
        sample.values = content | sample.values
    else:
        sample.values["label" if name == "cls" else "text"] = content


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    return b"" if file is None else file.read()


def _text(data: bytes) -> str | None:
    """The words of a text file; None if it is not UTF-8."""
    try:
        return " ".join(data.decode("utf-8-sig").split())
    except UnicodeDecodeError:
        return None


def _scalars(data: bytes) -> dict[str, Any] | None:
    """The texts and numbers of a JSON object; None if it is none."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict):
        return None
    return {k: v for k, v in content.items() if isinstance(v, (str, int, float))}
