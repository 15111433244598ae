"""Memory that does not suffice."""

from __future__ import annotations

import resource
import threading

import psutil
import pytest
import torch

from imgtf.errors import ImgtfError, is_out_of_memory
from imgtf.training.config import TrainingConfig
from imgtf.training.memory import advice, bounded_memory, fewest_parts, isolated

CPU = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried ..."
)


@pytest.mark.parametrize(("most", "parts"), [(100, 1), (24, 1), (23, 2), (5, 6), (1, 24)])
def test_the_largest_micro_batch_that_fits_divides_the_batch(most: int, parts: int) -> None:
    tried = []

    def attempt(parts: int) -> None:
        tried.append(24 // parts)
        if 24 // parts > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    assert fewest_parts(24, 1, attempt) == parts
    assert tried == [24 // n for n in (1, 2, 3, 4, 6, 8, 12, 24) if n <= parts]


def test_what_one_process_lacks_memory_for_fits_in_none() -> None:
    """Each of two processes has 12 of 24 images; the other one has memory for 3."""
    tried: list[int] = []

    def any_of(own: bool) -> bool:
        return own or 12 // tried[-1] > 3

    assert fewest_parts(24, 2, tried.append, any_of) == 4
    assert tried == [1, 2, 3, 4]


def test_single_images_that_do_not_fit_are_an_error() -> None:
    def attempt(parts: int) -> None:
        raise RuntimeError(CPU)

    with pytest.raises(ImgtfError, match="out of memory with single images: try a smaller image size"):
        fewest_parts(8, 1, attempt)


def test_other_errors_are_not_taken_for_memory() -> None:
    assert not is_out_of_memory(RuntimeError("shapes differ"))
    assert is_out_of_memory(RuntimeError("could not create a primitive"))
    assert not is_out_of_memory(RuntimeError("could not create a primitive descriptor for a convolution"))

    def attempt(parts: int) -> None:
        raise ValueError("shapes differ")

    with pytest.raises(ValueError, match="shapes differ"):
        fewest_parts(8, 1, attempt)


def test_processes_share_the_memory_of_a_machine() -> None:
    share = 2**28
    processes = psutil.virtual_memory().available // share
    with pytest.raises(RuntimeError) as error, bounded_memory(torch.device("cpu"), processes):
        torch.empty(2 * share, dtype=torch.uint8)
    assert is_out_of_memory(error.value)


def test_freed_tensors_leave_room_below_the_limit() -> None:
    """Also those that the heap would keep, because others lie behind them."""
    torch.zeros(2**22)  # when it is freed, glibc decides to keep blocks below 16 MiB
    with bounded_memory(torch.device("cpu")):
        before = psutil.Process().memory_info().vms
        tensors = [torch.zeros(2**18) for _ in range(200)]  # of 1 MiB
        kept = tensors[-1].clone()
        del tensors
        assert psutil.Process().memory_info().vms - before < 20 * 2**20
    assert len(kept) == 2**18


@pytest.mark.parametrize(("device", "own_thread"), [("cpu", True), ("meta", False)])
def test_a_trial_on_a_cpu_has_a_thread_of_its_own(device: str, own_thread: bool) -> None:
    threads: list[int] = []

    def work() -> None:
        threads.append(threading.get_ident())
        raise MemoryError

    with pytest.raises(MemoryError):
        isolated(work, torch.device(device))
    assert (threads != [threading.get_ident()]) == own_thread


def test_the_advice_keeps_the_batch_where_it_can() -> None:
    text = advice(TrainingConfig(batch_size=12, gradient_accumulation_steps=2), 2)
    assert (
        "micro-batches of 3 images: try --gradient-accumulation-steps 3, which keeps the batch of 12" in text
    )
    assert "smaller image size" in advice(TrainingConfig(batch_size=2, gradient_accumulation_steps=2), 1)


def test_on_a_cpu_an_allocation_fails_before_the_memory_is_full() -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(RuntimeError) as error, bounded_memory(torch.device("cpu")):
        torch.empty(2**44, dtype=torch.uint8)
    assert is_out_of_memory(error.value)
    assert resource.getrlimit(resource.RLIMIT_AS) == before
