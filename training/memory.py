"""Memory that does not suffice: what to try, and the largest micro-batch that fits."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread

import psutil
import torch
from accelerate.utils.memory import clear_device_cache

from ..errors import ImgtfError, is_out_of_memory
from .config import TrainingConfig

logger = logging.getLogger("imgtf")

SHARE = 0.9
"""Of the free memory of a CPU that a trial may take."""
MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1
"""Numbers of parameters in glibc's malloc.h."""


@contextmanager
def explained(config: TrainingConfig, processes: int) -> Iterator[None]:
    """Turn an out-of-memory error within the block into one that says what to try."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise ImgtfError(f"out of memory with {advice(config, processes)}") from error


def advice(config: TrainingConfig, processes: int) -> str:
    """Return the size of the micro-batches, and which settings need less memory."""
    parts = config.gradient_accumulation_steps
    own = config.batch_size // processes
    now = f"micro-batches of {own // parts} images"
    if more := next((n for n in divisors(own) if n > parts), None):
        return (
            f"{now}: try --gradient-accumulation-steps {more}, which keeps the batch of {config.batch_size}, "
            f"or --batch-size auto"
        )
    return f"{now}: try a smaller image size or network"


def divisors(number: int) -> list[int]:
    """Return the divisors of a number, rising."""
    return [n for n in range(1, number + 1) if number % n == 0]


def fewest_parts(
    batch_size: int, processes: int, attempt: Callable[[int], None], any_of: Callable[[bool], bool] = bool
) -> int:
    """Return the smallest number of micro-batches per update with which `attempt` has memory enough.

    The batch stays the same: only divisors of a process's share of it are tried, as Accelerate's
    `find_executable_batch_size` tries batch sizes. With several processes, all have memory enough, and try alike.

    Args:
        attempt: takes the number of micro-batches and does one update. It must not wait for other processes, because
            one that is out of memory leaves it.
        any_of: whether any process says yes (`Agreement.any`).

    Raises:
        ImgtfError: single images do not fit either.
    """
    own = batch_size // processes
    for parts in divisors(own):
        if not any_of(_lacks_memory(attempt, parts)):
            return parts
        logger.info("micro-batches of %d images: out of memory", own // parts)
    raise ImgtfError("out of memory with single images: try a smaller image size or network")


def _lacks_memory(attempt: Callable[[int], None], parts: int) -> bool:
    """Return whether this process runs out of memory. Afterwards the memory is free."""
    clear_device_cache(garbage_collection=True)
    try:
        attempt(parts)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return True
    finally:
        clear_device_cache(garbage_collection=True)
    return False


def isolated(work: Callable[[], None], device: torch.device) -> None:
    """Do something that may run out of memory; on a CPU in a thread of its own.

    Where oneDNN once had no memory for the code of an operation, it makes no more code in the same thread.
    """
    if device.type != "cpu":
        work()
        return
    failed: list[BaseException] = []

    def watched() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    thread = Thread(target=watched, name="imgtf-trial", daemon=True)  # Ctrl-C does not wait for it
    thread.start()
    thread.join()
    if failed:
        raise failed.pop()


@contextmanager
def bounded_memory(device: torch.device, processes: int = 1) -> Iterator[None]:
    """Let allocations on a CPU fail within the block where they would fill the memory.

    Linux gives out more memory than there is, and kills the process later, so nothing could be tried.

    Args:
        processes: that share the memory of this machine, in equal parts.
    """
    try:
        import resource
    except ImportError:  # Windows refuses at once
        yield
        return
    if device.type != "cpu":
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    own = int(SHARE * psutil.virtual_memory().available) // processes
    limit = psutil.Process().memory_info().vms + own
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    try:
        with _tensors_given_back():
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@contextmanager
def _tensors_given_back() -> Iterator[None]:
    """Let glibc give freed tensors back to the system at once within the block.

    It would keep their addresses in its heap: they count against the limit, and oneDNN finds none for its code.
    Afterwards, glibc keeps blocks below 32 MiB again, which is where its own threshold stops rising.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt is None:
        yield
        return
    mallopt(MMAP_THRESHOLD, 2**16)
    try:
        yield
    finally:
        mallopt(MMAP_THRESHOLD, 2**25)
        mallopt(TRIM_THRESHOLD, 2**26)
