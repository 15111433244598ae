import itertools
import os
import signal

import numpy as np
import pytest
import torch

from imgtf.data.loader import eval_batches, train_batches
from imgtf.errors import DataError


class Numbers(torch.utils.data.Dataset):
    def __init__(self, length=10, bad=-1):
        self.length, self.bad = length, bad

    def __len__(self):
        return self.length

    def __getitem__(self, key):
        index, epoch = key
        if index == self.bad:
            raise DataError("row 3: broken")
        return {
            "image": torch.full((1, 2, 2), float(index)),
            "label": index,
            "bad": "",
            "index": index,
            "epoch": epoch,
        }


def indices(batches):
    return [batch["index"].tolist() for batch in batches]


@pytest.mark.parametrize("workers", [0, 2])
def test_training_batches(workers):
    batches = train_batches(Numbers(), 4, seed=0, workers=workers)
    batch = next(batches)
    assert batch["image"].shape == (4, 1, 2, 2)
    assert batch["label"].dtype == torch.int64
    assert batch["bad"] == [""] * 4
    rest = indices(itertools.islice(batches, 7))
    assert rest == indices(itertools.islice(train_batches(Numbers(), 4, seed=0, start_step=1), 7))
    batches.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_the_global_generator_is_not_touched(workers):
    before = torch.get_rng_state()
    batches = train_batches(Numbers(), 4, seed=0, workers=workers)
    list(itertools.islice(batches, 6))
    batches.close()
    list(eval_batches(Numbers(), 4, workers=workers))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_of_the_data_set_keep_their_message(workers):
    with pytest.raises(DataError, match=r"^row 3: broken$"):
        list(eval_batches(Numbers(bad=3), 4, workers=workers))


def test_too_few_images_are_refused_immediately():
    with pytest.raises(DataError, match="10 training images are fewer"):
        train_batches(Numbers(), 11, seed=0)


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_batches(workers):
    assert indices(eval_batches(Numbers(), 4, workers=workers)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert indices(eval_batches(Numbers(), 4, limit=5, workers=workers)) == [[0, 2, 4, 6], [8]]
    assert indices(eval_batches(Numbers(0), 4, workers=workers)) == []


@pytest.mark.parametrize("world", [1, 3, 12])
def test_batches_of_all_processes_form_the_data_set(world):
    """In the batches of one process, so that these are computed alike."""
    parts = [indices(eval_batches(Numbers(), 2, rank=rank, world=world)) for rank in range(world)]
    in_turn = itertools.chain.from_iterable(itertools.zip_longest(*parts))
    assert [batch for batch in in_turn if batch] == indices(eval_batches(Numbers(), 2))


class Ids(Numbers):
    def __getitem__(self, key):
        return {"pid": os.getpid()}


def test_workers_ignore_ctrl_c_and_end_with_the_iterator():
    batches = train_batches(Ids(), 2, seed=0, workers=1)
    pid = next(batches)["pid"][0].item()
    os.kill(pid, signal.SIGINT)
    assert [batch["pid"][0].item() for batch in itertools.islice(batches, 20)] == [pid] * 20
    batches.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize("kind", [np.int64, np.uint16, np.float32, np.bool_, int, float, bool])
def test_numbers_of_any_kind_become_tensors(kind):
    class Labels(Numbers):
        def __getitem__(self, key):
            return {"label": kind(1)}

    assert torch.equal(next(eval_batches(Labels(3), 3))["label"].double(), torch.ones(3, dtype=torch.double))
