"""The order of training: which images make up the batch of step k, a pure function of (seed, k)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from ..errors import ConfigError, DataError

Pair = tuple[int, int]  # (index of an image, epoch it is drawn in)


class BatchOrder(torch.utils.data.Sampler[list[Pair]]):
    """One permutation of the data set after the other, cut into batches; a batch may straddle two.

    Iterating never ends, and starts at `start_step`: resuming needs no state but the number of the step.
    """

    def __init__(
        self, length: int, batch_size: int, seed: int, start_step: int = 0, rank: int = 0, world: int = 1
    ) -> None:
        """`batch_size` counts over all `world` processes; this one gets its contiguous slice, the rank-th.

        Raises:
            DataError: fewer images than a batch.
            ConfigError: the batch cannot be parted evenly among the processes.
        """
        check_batch(length, batch_size)
        if batch_size < 1 or batch_size % world:
            raise ConfigError(
                f"a batch of {batch_size} images cannot be parted evenly among {world} processes"
            )
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.start_step, self.rank, self.world = start_step, rank, world
        self._epochs: dict[int, np.ndarray] = {}

    def __iter__(self) -> Iterator[list[Pair]]:
        step = self.start_step
        while True:
            yield self.batch(step)
            step += 1

    def batch(self, step: int) -> list[Pair]:
        """This process's part of the batch of a step."""
        share = self.batch_size // self.world
        place = step * self.batch_size + self.rank * share
        pairs: list[Pair] = []
        while len(pairs) < share:
            epoch, offset = divmod(place + len(pairs), self.length)
            part = self._permutation(epoch)[offset : offset + share - len(pairs)]
            pairs += [(index, epoch) for index in part.tolist()]
        return pairs

    def _permutation(self, epoch: int) -> np.ndarray:
        if epoch not in self._epochs:
            stream = np.random.default_rng((self.seed % 2**64, epoch))
            # A batch touches two epochs at most: the last two asked for are kept.
            self._epochs = dict([*self._epochs.items(), (epoch, stream.permutation(self.length))][-2:])
        return self._epochs[epoch]


def check_batch(length: int, batch_size: int) -> None:
    """DataError when there are fewer images than a batch."""
    if length < batch_size:
        raise DataError(
            f"only {length} images, fewer than a batch of {batch_size}: lower --batch-size or add images"
        )
