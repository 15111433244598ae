"""Batches for a loop: endless and shuffled to train on, or once through in order to measure on."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from ..errors import ImgtfError
from .order import BatchOrder, Pair

Batch = dict[str, Any]


class Indexed(Protocol):
    """A data set that is asked for (index, epoch): `ImageDataset`, `CodesDataset`."""

    def __len__(self) -> int: ...
    def __getitem__(self, key: tuple[int, int], /) -> dict[str, Any]: ...


def train_batches(
    dataset: Indexed,
    batch_size: int,
    *,
    seed: int,
    start_step: int = 0,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
) -> Iterator[Batch]:
    """Batches from `start_step` on, without end, in the order of `BatchOrder`.

    Args:
        batch_size: images in a step over all `world` processes; this one gets its share of them.

    Returns:
        dicts of what the data set gives for one image: tensors stacked, numbers as a tensor, text as a list.

    Raises:
        DataError: at once when a batch needs more images than there are; later what the data set raises.
    """
    order = BatchOrder(len(dataset), batch_size, seed, start_step, rank, world)
    return _batches(dataset, order, workers)


def eval_batches(
    dataset: Indexed,
    batch_size: int,
    *,
    limit: int | None = None,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
) -> Iterator[Batch]:
    """Every image once, in order; the last batch may be short. Epoch 0 for all.

    Args:
        batch_size: images in a batch of this process.
        limit: at most so many images, evenly spaced: the first ones are often all of one class.
        rank, world: this process gets the rank-th of `world` contiguous parts.
    """
    count = len(dataset) if limit is None else min(limit, len(dataset))
    rows = np.arange(count) * len(dataset) // max(count, 1)
    part = np.array_split(rows, world)[rank].tolist()
    pairs = [(row, 0) for row in part]
    cuts = [pairs[i : i + batch_size] for i in range(0, len(pairs), batch_size)]
    return _batches(dataset, cuts, min(workers, len(cuts)))


def _batches(dataset: Indexed, order: Iterable[list[Pair]], workers: int) -> Iterator[Batch]:
    loader: DataLoader[Any] = DataLoader(
        _Whole(dataset),
        batch_sampler=order,
        num_workers=workers,
        collate_fn=_collate,
        worker_init_fn=_init_worker if workers else None,
        generator=torch.Generator().manual_seed(0),  # else it draws its base seed from the global generator
        pin_memory=torch.cuda.is_available(),
    )
    return _raising(loader)


def _raising(loader: DataLoader[Any]) -> Iterator[Batch]:
    iterator = iter(loader)
    try:
        for batch in iterator:
            if isinstance(batch, _Failure):
                raise batch.error
            yield batch
    finally:
        # Now, not when the garbage collector comes by: that was seen to wait ten seconds for the workers.
        if isinstance(iterator, _MultiProcessingDataLoaderIter):
            iterator._shutdown_workers()


class _Failure:
    """An error on purpose on its way out of a worker, which would else arrive as a printed traceback."""

    def __init__(self, error: ImgtfError) -> None:
        self.error = error


class _Whole(Dataset[Any]):
    """Gets a whole batch at a time, so that an error can take the place of it."""

    def __init__(self, dataset: Indexed) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, pair: Pair) -> dict[str, Any]:
        return self.dataset[pair]

    def __getitems__(self, pairs: list[Pair]) -> list[dict[str, Any]] | _Failure:
        try:
            return [self.dataset[pair] for pair in pairs]
        except ImgtfError as error:
            return _Failure(error)


def _collate(items: list[dict[str, Any]] | _Failure) -> Batch | _Failure:
    if isinstance(items, _Failure):
        return items
    return {key: _join([item[key] for item in items]) for key in items[0]}


def _join(values: list[Any]) -> Any:
    if isinstance(values[0], torch.Tensor):
        return torch.stack(values)
    return torch.tensor(values) if isinstance(values[0], (int, float)) else values


def _init_worker(worker: int) -> None:
    # Ctrl-C reaches the whole group of processes: the main one saves its state, and then ends the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
