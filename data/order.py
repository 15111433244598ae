"""The order of training: which images form the batch of step k, as a function of (seed, k)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from ..errors import ConfigError, DataError

Pair = tuple[int, int]  # (index of an image, epoch)


def random_stream(seed: int, *key: int) -> np.random.Generator:
    """Return a random generator that depends on these numbers only."""
    return np.random.default_rng((int(seed) % 2**64, *map(int, key)))


class BatchOrder(torch.utils.data.Sampler[list[Pair]]):
    """Batches of an endless sequence of permutations of the data set. A batch may span two epochs.

    Iteration begins at `start_step`: resuming needs no other state.
    """

    def __init__(
        self, length: int, batch_size: int, seed: int, start_step: int = 0, rank: int = 0, world: int = 1
    ) -> None:
        """`batch_size`: over all `world` processes; this process gets the contiguous slice number `rank`.

        Raises:
            DataError: fewer images than one batch.
            ConfigError: the batch cannot be divided evenly among the processes.
        """
        check_batch(length, batch_size)
        if batch_size < 1 or batch_size % world:
            raise ConfigError(
                f"a batch of {batch_size} images cannot be divided evenly among {world} processes"
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
        """Return this process's slice of the batch of a step."""
        size = self.batch_size // self.world
        start = step * self.batch_size + self.rank * size
        pairs: list[Pair] = []
        while len(pairs) < size:
            epoch, offset = divmod(start + len(pairs), self.length)
            indices = self._permutation(epoch)[offset : offset + size - len(pairs)]
            pairs += [(index, epoch) for index in indices.tolist()]
        return pairs

    def _permutation(self, epoch: int) -> np.ndarray:
        if epoch not in self._epochs:
            permutation = random_stream(self.seed, epoch).permutation(self.length)
            # A batch of at most `length` images spans at most two epochs: the last two are kept.
            self._epochs = dict([*self._epochs.items(), (epoch, permutation)][-2:])
        return self._epochs[epoch]


def check_batch(length: int, batch_size: int) -> None:
    """Raise DataError if there are fewer images than one batch."""
    if length < batch_size:
        raise DataError(
            f"{length} training images are fewer than a batch of {batch_size}: lower --batch-size or add images"
        )
