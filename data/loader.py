"""Batches: endless and shuffled for training, or once in order for evaluation."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from ..errors import ImgtfError
from .order import BatchOrder

Batch = dict[str, Any]


class Indexed(Protocol):
    """A data set indexed by (index, epoch): `ImageDataset`, `CodesDataset`."""

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
    """Yield batches from `start_step` on, without end, in the order of `BatchOrder`.

    Args:
        batch_size: images per step over all `world` processes; this process gets its slice of them.

    Returns:
        dicts with the keys of the data set's items: tensors stacked, numbers as a tensor, text as a list.

    Raises:
        DataError: immediately if there are fewer images than one batch; later the errors of the data set.
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
    """Yield every image once, in order, in epoch 0. The last batch may be smaller.

    Args:
        batch_size: images per batch of this process.
        limit: largest number of images, evenly spaced, because the first ones often all belong to one class.
        rank, world: this process gets the batches `rank`, `rank + world` and so on.
    """
    count = len(dataset) if limit is None else min(limit, len(dataset))
    rows = np.arange(count) * len(dataset) // max(count, 1)
    pairs = [(row, 0) for row in rows.tolist()]
    batches = [pairs[i : i + batch_size] for i in range(0, len(pairs), batch_size)][rank::world]
    return _batches(dataset, batches, min(workers, len(batches)))


class Batched(Protocol):
    """A data set that loads a whole batch: `StreamImages`."""

    def batch(self, samples: list[Any], /) -> list[dict[str, Any]]: ...


def batches_of(dataset: Batched, order: Iterator[list[Any]], workers: int) -> Iterator[Batch]:
    """Yield the batches of samples that `order` yields, in this order. The samples travel to the workers."""
    return _batches(dataset, order, workers)


def _batches(dataset: Indexed | Batched, order: Iterable[list[Any]], workers: int) -> Iterator[Batch]:
    loader: DataLoader[Any] = DataLoader(
        _BatchLoading(dataset),
        batch_sampler=order,
        num_workers=workers,
        collate_fn=_collate,
        worker_init_fn=_init_worker if workers else None,
        generator=torch.Generator().manual_seed(0),  # the default seed comes from the global generator
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
        # Explicitly, because the garbage collector may wait ten seconds for the workers.
        if isinstance(iterator, _MultiProcessingDataLoaderIter):
            iterator._shutdown_workers()


class _Failure:
    """An expected error that a worker returns. Raised in the worker, it would print a traceback."""

    def __init__(self, error: ImgtfError) -> None:
        self.error = error


class _BatchLoading(Dataset[Any]):
    """Loads a whole batch at a time, so that a `_Failure` can replace it."""

    def __init__(self, dataset: Any) -> None:
        """`dataset`: `Indexed` or `Batched`."""
        self.dataset = dataset

    def __getitem__(self, pair: Any) -> dict[str, Any]:
        return self.dataset[pair]

    def __getitems__(self, pairs: list[Any]) -> list[dict[str, Any]] | _Failure:
        try:
            if hasattr(self.dataset, "batch"):
                return self.dataset.batch(pairs)
            return [self.dataset[pair] for pair in pairs]
        except ImgtfError as error:
            return _Failure(error)


def _collate(items: list[dict[str, Any]] | _Failure) -> Batch | _Failure:
    if isinstance(items, _Failure):
        return items
    return {key: _stack([item[key] for item in items]) for key in items[0]}


def _stack(values: list[Any]) -> Any:
    if isinstance(values[0], torch.Tensor):
        return torch.stack(values)
    return torch.tensor(values) if isinstance(values[0], (int, float, np.number, np.bool_)) else values


def _init_worker(worker: int) -> None:
    # Ctrl-C, and SIGTERM or SIGUSR1 of a batch scheduler, reach all processes of the group. The main process saves its
    # state first, then ends the workers.
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):  # Windows has no SIGUSR1
            signal.signal(getattr(signal, name), signal.SIG_IGN)
