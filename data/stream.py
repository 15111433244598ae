"""A data set that is read as it comes: its samples in order, or shuffled block by block without end.

The order needs no state but a `Position`: a block of samples that follow each other in the shards is shuffled with a
random generator that depends on its number only. So a resumed run reads one block again, and repeats and drops nothing.
The buffer of `IterableDataset.shuffle` of datasets 5.2 cannot do this: its samples are lost when a run is resumed.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby, islice
from typing import Any, NamedTuple

from ..errors import DataError
from .columns import Columns
from .locations import is_url, may_pass
from .order import random_stream
from .stream_shards import Shards

logger = logging.getLogger("imgtf")

RETRIES, WAIT = 4, 2.0
"""How often the connection of a remote shard is renewed, and the seconds before the first time."""


class Position(NamedTuple):
    """The next sample of one lane."""

    lane: int
    epoch: int = 0
    block: int = 0
    """Number of the block in its epoch."""
    shard: int = 0
    """Place in the lane's order of the shards, where the block starts."""
    row: int = 0
    """Row of the shard, where the block starts."""
    offset: int = 0
    """Samples of the shuffled block that have been used."""
    size: int = 0
    """Most samples of the block."""


START = Position(0)


@dataclass(frozen=True)
class StreamSample:
    """One sample on its way."""

    shard: int
    row: int
    image: bytes
    """Encoded."""
    label: int | None
    text: str | None
    where: str
    epoch: int = 0
    position: Position = START
    """The position after this sample."""

    @property
    def id(self) -> int:
        """A number of its own for each sample of the data set."""
        return self.shard << 32 | self.row


@dataclass(frozen=True)
class HeldOut:
    """Which samples of the training split are held out: of the first rows of some shards, those with a small hash."""

    fraction: float = 0.0
    rows: Mapping[int, int] = field(default_factory=dict)
    """Shard -> its first rows that may be held out."""

    def __call__(self, shard: int, row: int) -> bool:
        return row < self.rows.get(shard, 0) and self.drawn(shard, row)

    def drawn(self, shard: int, row: int) -> bool:
        """Return whether the hash of a sample is small."""
        digest = hashlib.blake2b(f"{shard} {row}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") < self.fraction * 2**64


Placed = tuple[StreamSample, int, int]
"""A sample, and the place after it: number of the shard in the order of the lane, and row."""
NOTHING = HeldOut()
LabelOf = Callable[[Any], int | None]


class Stream:
    """The samples of a split, without those that are held out."""

    def __init__(
        self,
        name: str,
        shards: Shards,
        columns: Columns,
        label: LabelOf,
        held_out: HeldOut = NOTHING,
        about: int = 0,
    ) -> None:
        """
        Args:
            label: the class of a value of the label column, or None.
            about: number of samples, by the sizes of the shards.
        """
        self.about = about
        self.name, self.shards, self.columns, self.held_out = name, shards, columns, held_out
        self._label = label

    def __len__(self) -> int:
        """The number of shards."""
        return len(self.shards.paths)

    def shard(self, shard: int, row: int = 0) -> Iterator[StreamSample]:
        """Yield all samples of a shard from a row on. A lost connection is renewed a few times. Raises DataError."""
        failures = 0
        while True:
            try:
                for raw in self.shards.read(shard, row, self.columns):
                    label = self._label(raw.label)
                    yield StreamSample(shard, row, raw.image, label, raw.text, raw.where)
                    row, failures = row + 1, 0
                return
            except DataError as error:
                failures += 1
                if failures > RETRIES or not is_url(self.shards.paths[shard]) or not may_pass(error):
                    raise
                wait = WAIT * 2 ** (failures - 1)
                logger.warning("%s; next attempt in %g s", error, wait)
                time.sleep(wait)

    def with_columns(self, columns: Columns) -> Stream:
        """Return the same samples with other columns."""
        return Stream(self.name, self.shards, columns, self._label, self.held_out, self.about)

    def again(self, samples: Sequence[StreamSample]) -> list[StreamSample]:
        """Read these samples again, of which those of a shard follow each other in order. Raises DataError."""
        found = []
        for shard, own in groupby(samples, lambda sample: sample.shard):
            rows = {sample.row for sample in own}
            found += [sample for sample in islice(self.shard(shard), max(rows) + 1) if sample.row in rows]
        return found

    def in_order(self, shard: int = 0, row: int = 0) -> Iterator[StreamSample]:
        """Yield every sample once, in order. `position` tells the place of the next one."""
        for number in range(shard, len(self)):
            for sample in self.shard(number, row):
                if not self.held_out(number, sample.row):
                    yield _moved(sample, Position(0, shard=number, row=sample.row + 1))
            row = 0

    def shuffled(self, start: Position, lanes: int, seed: int, buffer: int) -> Iterator[StreamSample]:
        """Yield the samples of one lane without end, from a position on. Every epoch has another order.

        In each epoch, the lanes together read every sample once.

        Args:
            lanes: number of lanes, which share the shards. Lane i of n reads each n-th sample if the shards are fewer.
            buffer: samples of a block.

        Raises:
            DataError: a shard cannot be read, or there are no samples.
        """
        position = start._replace(size=start.size or buffer)
        while True:
            used = 0
            for sample in self._epoch(position, lanes, seed, buffer):
                used += 1
                yield sample
            if not used and position == Position(position.lane, position.epoch, size=position.size):
                raise DataError(f"{self.name}: no samples for reader {position.lane} of {lanes}")
            position = Position(position.lane, position.epoch + 1, size=buffer)

    def _epoch(self, start: Position, lanes: int, seed: int, buffer: int) -> Iterator[StreamSample]:
        lane, epoch, block, shard, row, offset, size = start
        reader = self._lane(lane, epoch, lanes, seed, shard, row)
        for samples in self._blocks(reader, size, buffer):
            order = random_stream(seed, epoch, lane, block).permutation(len(samples)).tolist()
            after = samples[-1][1:]
            for used in range(offset, len(samples)):
                position = Position(lane, epoch, block, shard, row, used + 1, size)
                yield _moved(samples[order[used]][0], position, epoch)
            block, (shard, row), offset, size = block + 1, after, 0, buffer

    def _blocks(self, reader: Iterator[Placed], first: int, size: int) -> Iterator[list[Placed]]:
        """Yield blocks of samples. Remote ones are read while the block before is used."""
        if not any(map(is_url, self.shards.paths)):
            while samples := list(islice(reader, first)):
                yield samples
                first = size
            return
        thread = ThreadPoolExecutor(1, "imgtf-stream")
        try:
            ahead = thread.submit(lambda: list(islice(reader, first)))
            while samples := ahead.result():
                ahead = thread.submit(lambda: list(islice(reader, size)))
                yield samples
        finally:
            thread.shutdown(wait=False, cancel_futures=True)

    def _lane(self, lane: int, epoch: int, lanes: int, seed: int, first: int, row: int) -> Iterator[Placed]:
        """Samples of a lane in one epoch, each with the place after it: number of the shard in the order, and row."""
        order = random_stream(seed, epoch).permutation(len(self)).tolist()
        shared = len(self) < lanes
        own = order if shared else order[lane::lanes]
        for place in range(first, len(own)):
            for sample in self.shard(own[place], row):
                mine = not shared or sample.row % lanes == lane
                if mine and not self.held_out(sample.shard, sample.row):
                    yield sample, place, sample.row + 1
            row = 0


def _moved(sample: StreamSample, position: Position, epoch: int = 0) -> StreamSample:
    return StreamSample(
        sample.shard, sample.row, sample.image, sample.label, sample.text, sample.where, epoch, position
    )
