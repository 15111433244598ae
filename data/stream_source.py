"""Opening a data set with --streaming: its shards, its classes, its held-out samples, and the first samples.

Nothing is known in advance about a stream: no number of images, no classes, no sizes. The first samples of a few shards
stand for all.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import ConfigError, DataError
from .columns import Columns, find_columns, with_image
from .config import DIGITS, DataConfig
from .decode import load_image, open_image
from .findings import STREAMED, Notes, some
from .labels import NotALabel, class_name
from .splits import choose_splits
from .stream import HeldOut, LabelOf, Stream, StreamSample
from .stream_files import ShardFile, find_shards
from .stream_shards import ParquetShards, Shards, TarShards

logger = logging.getLogger("imgtf")

INSPECTED = 5000
"""Samples that are read before a run: of these, some are held out."""
SPREAD = 8
"""Shards that they come from."""
MOST_HELD_OUT = 1000
MOST_SHOWN = 1000
"""Training samples that are kept to find sizes and modes."""
MOST_BYTES = 2**27
"""Encoded bytes that are kept of the training samples, and of the held-out samples."""


@dataclass(frozen=True)
class OpenedStream:
    """A data set that is streamed."""

    stream: Stream
    """The training samples."""
    splits: tuple[str, str]
    """Names of the training and the held-out split."""
    samples: tuple[SampleRows, SampleRows]
    """First training samples, and the held-out samples."""
    classes: tuple[str, ...]
    identity: str
    """Changes with the shards and with the choice of columns, classes and held-out samples."""


class SampleRows:
    """Some samples of a stream, in memory."""

    def __init__(self, samples: Sequence[StreamSample], labelled: bool) -> None:
        self._samples = samples
        labels = [-1 if sample.label is None else sample.label for sample in samples]
        self.labels = np.array(labels, np.int64) if labelled else None

    def __len__(self) -> int:
        return len(self._samples)

    def captioned(self) -> np.ndarray:
        return np.array([bool(sample.text) for sample in self._samples], bool)

    def header(self, row: int) -> Image.Image:
        return open_image(self._samples[row].image, self.where(row))

    def image(self, row: int, at_least: int | None = None) -> Image.Image:
        return load_image(self._samples[row].image, self.where(row), at_least)

    def label(self, row: int) -> int | None:
        return self._samples[row].label if self.labels is not None else None

    def text(self, row: int) -> str | None:
        return self._samples[row].text

    def where(self, row: int) -> str:
        return self._samples[row].where


def open_stream(data: DataConfig, notes: Notes, column: str | None = None) -> OpenedStream:
    """Find the shards of a data set and read its first samples.

    Args:
        column: another image column, for example of conditioning images. Its samples are those of the images.

    Raises:
        ConfigError: the data set cannot be streamed, or the classes that were given do not fit.
        DataError: a shard cannot be read, there is no such column, or there are no samples.
    """
    if data.data == DIGITS:
        raise ConfigError("the built-in digits are in memory: leave out --streaming")
    kind, splits, where = find_shards(data.data)
    train, given = choose_splits(list(splits), data)
    files = splits[train]
    shards = _shards(kind, files)
    features = shards.features()
    columns = find_columns(features, data, f"{data.data} {train}", notes)
    classes, label = _labels(data, features, columns, notes)
    whole = Stream(data.data, shards, columns, label)
    notes.read_as(f"{STREAMED}, {len(files)} {kind} {'shard' if len(files) == 1 else 'shards'}")
    notes.info(
        f"{data.data}: the first samples are read from {where} to find sizes and "
        f"{'held-out images' if data.held_out and not given else 'classes'}"
    )
    rule = HeldOut() if given else HeldOut(data.held_out, _first_rows(len(whole)))
    shown, held_out, read = _inspect(whole, rule)
    if not shown:
        raise DataError(f"{data.data}: no samples to train on in {len(files)} {kind} files")
    other = Stream(data.data, _shards(kind, splits[given]), columns, label) if given else whole
    if given:
        held_out = _first_samples(other, MOST_HELD_OUT)
    rule = HeldOut(rule.fraction, read) if held_out and not given else HeldOut()
    _say(data, shown, held_out, given, sum(read.values()), classes, notes)
    stream = Stream(data.data, shards, columns, label, rule, _about(kind, files, shown))
    if column is not None:
        columns = with_image(columns, features, column, f"{data.data} {train}")
        stream = stream.with_columns(columns)
        # Which samples these are depends on the bytes of the images, so they are read in a second pass.
        shown, held_out = stream.again(shown), other.with_columns(columns).again(held_out)
    rows = SampleRows(shown, bool(classes)), SampleRows(held_out, bool(classes))
    parts = f"{columns} {classes} {rule.fraction} {sorted(rule.rows.items())}"
    identity = hashlib.sha256("\n".join([*(file.identity for file in files), parts]).encode()).hexdigest()
    return OpenedStream(stream, (train, given or f"{train}[held-out]"), rows, classes, identity)


def _shards(kind: str, files: Sequence[ShardFile]) -> Shards:
    paths = [file.path for file in files]
    return TarShards(paths) if kind == "tar" else ParquetShards(paths)


def _about(kind: str, files: Sequence[ShardFile], shown: Sequence[StreamSample]) -> int:
    """The number of samples that the sizes of the shards suggest."""
    if not all(file.size for file in files):
        return INSPECTED * len(files)
    # A member of a tar file has a header, and fills whole blocks.
    blocks = sum(1.5 + 2 * (one.label is not None) + 2 * bool(one.text) for one in shown)
    overhead = 512 * blocks if kind == "tar" else 0
    mean = (sum(len(sample.image) for sample in shown) + overhead) / len(shown)
    return max(1, round(sum(file.size for file in files) / max(mean, 1)))


def _first_rows(shards: int) -> dict[int, int]:
    """Evenly spaced shards -> the number of their first samples that are read."""
    chosen = sorted({index * shards // SPREAD for index in range(SPREAD)})
    return dict.fromkeys(chosen, -(-INSPECTED // len(chosen)))


def _inspect(stream: Stream, rule: HeldOut) -> tuple[list[StreamSample], list[StreamSample], dict[int, int]]:
    """First training samples, held-out samples, and the rows of each shard that were read to find them."""
    shown: list[StreamSample] = []
    held_out: list[StreamSample] = []
    kept, rows = [0, 0], dict[int, int]()
    wanted = _first_rows(len(stream))
    for shard, count in wanted.items():
        rows[shard] = 0
        for sample in islice(stream.shard(shard), count):
            drawn = rule.drawn(shard, sample.row)
            if len(held_out) >= MOST_HELD_OUT or kept[1] > MOST_BYTES:
                return shown, held_out, rows
            rows[shard] = sample.row + 1
            if drawn:
                held_out.append(sample)
                kept[1] += len(sample.image)
            elif len(shown) < (list(wanted).index(shard) + 1) * MOST_SHOWN // len(wanted):
                if kept[0] <= MOST_BYTES:
                    shown.append(sample)
                kept[0] += len(sample.image)
    return shown, held_out, rows


def _first_samples(stream: Stream, most: int) -> list[StreamSample]:
    """The first samples of a held-out split, from several shards."""
    samples: list[StreamSample] = []
    size = 0
    for shard, count in _first_rows(len(stream)).items():
        for sample in islice(stream.shard(shard), count * most // INSPECTED):
            size += len(sample.image)
            if size > MOST_BYTES:
                return samples
            samples.append(sample)
    return samples


def _labels(
    data: DataConfig, features: Mapping[str, Any], columns: Columns, notes: Notes
) -> tuple[tuple[str, ...], LabelOf]:
    """The classes, as the features or --classes give them, and the class of a value."""
    names = getattr(features.get(columns.label or ""), "names", None)
    given = _given_classes(data.classes) if data.classes else ()
    if columns.label is None:
        if given:
            raise ConfigError(f"{data.data}: --classes without a label column; name it with --label-column")
        return (), lambda value: None
    if names and not given:
        return tuple(names), lambda value: value if value is not None and 0 <= value < len(names) else None
    if not given:
        notes.warn(
            f"{data.data}: the labels in {columns.label!r} are not used, because a stream does not tell its classes in "
            f"advance: give them with --classes"
        )
        return (), lambda value: None
    numbers = {name: number for number, name in enumerate(given)}

    def number_of(value: Any) -> int | None:
        try:
            name = (
                names[value] if names and value is not None and 0 <= value < len(names) else class_name(value)
            )
        except NotALabel:
            return None
        return None if name is None else numbers.get(name)

    return given, number_of


def _given_classes(text: str) -> tuple[str, ...]:
    """The names in --classes: a number of classes 0, 1, ..., a file of one name per line, or names with commas.

    Raises:
        ConfigError: a name occurs twice, or the file cannot be read.
    """
    if text.isascii() and text.isdigit():
        if not 2 <= int(text) <= 10**6:
            raise ConfigError(f"--classes {text}: from 2 to a million classes")
        return tuple(map(str, range(int(text))))
    lines = text.split(",")
    if Path(text).is_file():
        try:
            lines = Path(text).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--classes {text}: cannot be read ({error})") from None
    names = [line.strip() for line in lines if line.strip()]
    if twice := sorted({name for name in names if names.count(name) > 1})[:3] if len(names) < 10**4 else []:
        raise ConfigError(f"--classes: {some(twice)} given twice")
    if len(names) < 2:
        raise ConfigError(f"--classes {text}: a number, a file of names, or names with commas between them")
    return tuple(names)


def _say(
    data: DataConfig, shown: Sequence[StreamSample], held_out: Sequence[StreamSample], given: str | None,
    read: int, classes: Sequence[str], notes: Notes,
) -> None:  # fmt: skip
    which = f"the first samples of {given}" if given else f"drawn by a hash from the first {read:,} samples"
    held = f"{len(held_out):,} held-out images, {which}" if held_out else "no held-out images"
    notes.info(f"{data.data}: {held}; {len(shown):,} training images stand for all in sizes and modes")
    labelled = sum(sample.label is not None for sample in shown)
    if classes and not labelled:
        raise ConfigError(
            f"{data.data}: none of the first labels is one of the {len(classes)} classes ({some(classes)})"
        )
    if classes and labelled < len(shown):
        notes.warn(
            f"{data.data}: {len(shown) - labelled} of the first {len(shown)} images have no label of a class"
        )
