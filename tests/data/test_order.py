import itertools
from collections.abc import Iterable

import pytest

from imgtf.data.order import BatchOrder
from imgtf.errors import ConfigError, DataError


def take(order: BatchOrder, count: int) -> list[list[tuple[int, int]]]:
    return list(itertools.islice(iter(order), count))


def flat(lists: Iterable[list[tuple[int, int]]]) -> list[tuple[int, int]]:
    return list(itertools.chain.from_iterable(lists))


def test_every_image_once_per_epoch():
    pairs = flat(take(BatchOrder(10, 4, seed=1), 5))
    for epoch in (0, 1):
        assert sorted(i for i, e in pairs if e == epoch) == list(range(10))
    assert [e for _, e in pairs] == [0] * 10 + [1] * 10  # the third batch spans two epochs


def test_a_batch_depends_only_on_seed_and_step():
    straight = take(BatchOrder(7, 3, seed=5), 40)
    for start in (0, 1, 6, 39):
        assert take(BatchOrder(7, 3, seed=5, start_step=start), 1)[0] == straight[start]
    assert take(BatchOrder(7, 3, seed=6), 40) != straight
    order = BatchOrder(7, 3, seed=5)
    assert [order.batch(step) for step in (30, 2, 30)] == [straight[30], straight[2], straight[30]]
    assert len(order._epochs) <= 2
    assert len(take(BatchOrder(7, 3, seed=-1), 1)) == 1


@pytest.mark.parametrize("world", [2, 4])
def test_the_slices_of_all_processes_form_the_batch(world):
    whole = take(BatchOrder(11, 8, seed=0), 6)
    parts = [take(BatchOrder(11, 8, seed=0, rank=rank, world=world), 6) for rank in range(world)]
    assert [flat(slices) for slices in zip(*parts, strict=True)] == whole


def test_memory_stays_small():
    order = BatchOrder(5, 5, seed=0)
    take(order, 50)
    assert len(order._epochs) <= 2


def test_wrong_batches_are_refused():
    with pytest.raises(
        DataError, match="12 training images are fewer than a batch of 64: lower --batch-size"
    ):
        BatchOrder(12, 64, seed=0)
    with pytest.raises(ConfigError, match="a batch of 9 images cannot be divided evenly among 2"):
        BatchOrder(12, 9, seed=0, world=2)
