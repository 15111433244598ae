"""The queue: what shares a batch, when it starts, when it is full, what a failure and a departure do."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from PIL import Image

from imgtf.errors import DataError
from imgtf.pipelines.canvas import Canvas
from imgtf.pipelines.request import Progress, Request
from imgtf.prior.config import SamplingConfig
from imgtf.serving.batcher import Batcher
from imgtf.serving.errors import ApiError
from imgtf.serving.job import Job, Row

SECONDS = 20


def job(n: int = 1, seed: int = 0, **settings: Any) -> Job:
    """A job whose images have the side `seed` + 1."""
    canvas = Canvas(torch.full((1, 1), -1))
    return Job(Request(n, {}, seed, 0, n, (0, 1)), SamplingConfig(**settings), lambda: canvas, "grid")


class Sampler:
    """Stands for the model: records batches, and waits until it may go on."""

    def __init__(self) -> None:
        self.batches: list[list[tuple[int, int]]] = []
        self.go, self.started = threading.Event(), threading.Event()
        self.go.set()

    def __call__(self, rows: Sequence[Row], progress: Progress) -> list[Image.Image]:
        self.batches.append([(row.job.request.seed, row.index) for row in rows])
        self.started.set()
        while not self.go.wait(0.005):
            progress(1)
        if any(row.job.request.seed == 13 for row in rows):
            raise DataError("a bad\nimage")
        if any(row.job.request.seed == 14 for row in rows):
            raise RuntimeError("a fault")
        return [Image.new("L", (row.job.request.seed + 1, 1)) for row in rows]


@contextmanager
def batcher(sampler: Sampler, **given: Any) -> Iterator[Batcher]:
    own = Batcher(
        sampler,
        lambda jobs: [[job.parts[i] for i in range(job.request.n)] for job in jobs],
        **{"batch_size": 4, "queue": 8, "wait": 0.0, **given},
    )
    own.start()
    try:
        yield own
    finally:
        sampler.go.set()
        own.stop(SECONDS)


def side(own: Job) -> list[int]:
    return [image.width - 1 for image in own.future.result(SECONDS)]


def hold(sampler: Sampler, own: Batcher) -> Job:
    """Let a job run that does not end before `sampler.go`."""
    sampler.go.clear()
    first = job(seed=1)
    own.submit(first)
    assert sampler.started.wait(SECONDS)
    return first


def test_waiting_images_of_equal_settings_share_a_batch() -> None:
    sampler = Sampler()
    with batcher(sampler) as own:
        first = hold(sampler, own)
        jobs = [job(2, 2), job(1, 3, top_k=5), job(1, 4), job(2, 5), job(1, 6, top_k=5)]
        for one in jobs:
            own.submit(one)
        assert (own.waiting, own.running) == (7, 1)
        sampler.go.set()
        assert [side(one) for one in (first, *jobs)] == [[1], [2, 2], [3], [4], [5, 5], [6]]
    assert sampler.batches == [[(1, 0)], [(2, 0), (2, 1), (4, 0), (5, 0)], [(3, 0), (6, 0)], [(5, 1)]]


def test_a_batch_starts_when_it_is_full_or_its_time_has_come() -> None:
    sampler = Sampler()
    with batcher(sampler, wait=0.3, batch_size=2) as own:
        start = time.monotonic()
        full = [job(seed=1), job(seed=2)]
        for one in full:
            own.submit(one)
        assert [side(one) for one in full] == [[1], [2]]
        assert time.monotonic() - start < 0.25
        alone, start = job(seed=3), time.monotonic()
        own.submit(alone)
        assert side(alone) == [3]
        assert time.monotonic() - start > 0.25
    assert sampler.batches == [[(1, 0), (2, 0)], [(3, 0)]]


def test_clients_that_ask_again_are_in_the_next_batch() -> None:
    sampler = Sampler()
    with batcher(sampler, wait=0.2, batch_size=2) as own:
        full = [job(seed=1), job(seed=2), job(seed=3)]
        for one in full:
            own.submit(one)
        assert side(full[0]) == [1]
        own.submit(again := job(seed=4))  # seed 3 has waited, and is not sampled alone
        assert [side(one) for one in (full[2], again)] == [[3], [4]]
    assert sampler.batches == [[(1, 0), (2, 0)], [(3, 0), (4, 0)]]


def test_a_full_queue_says_when_to_try_again() -> None:
    sampler = Sampler()
    with batcher(sampler, queue=3) as own:
        hold(sampler, own)
        waiting = job(2, 2)
        own.submit(waiting)
        with pytest.raises(ApiError, match=r"2 of 3 images wait.* asks for 2") as error:
            own.submit(job(2, 3))
        assert error.value.status == 429
        assert 1 <= int(error.value.headers["Retry-After"]) <= 60
        own.submit(job(1, 4))
        sampler.go.set()
        assert side(waiting) == [2, 2]


def test_a_client_that_leaves_frees_its_places() -> None:
    sampler = Sampler()
    with batcher(sampler, queue=2) as own:
        running = hold(sampler, own)
        left, stays = job(2, 2), job(2, 3)
        own.submit(left)
        own.cancel(left)
        own.submit(stays)
        own.cancel(running)  # its batch ends before its time, as nobody waits for it
        with pytest.raises(CancelledError):
            running.future.result(SECONDS)
        sampler.started.clear()
        assert sampler.started.wait(SECONDS)
        sampler.go.set()
        assert side(stays) == [3, 3]
    assert (2, 0) not in [row for batch in sampler.batches for row in batch]


def test_only_the_wrong_job_of_a_batch_fails(caplog: Any) -> None:
    sampler = Sampler()
    with batcher(sampler) as own:
        hold(sampler, own)
        good, wrong, broken = job(seed=2), job(seed=13), job(seed=14)
        for one in (good, wrong, broken):
            own.submit(one)
        sampler.go.set()
        assert side(good) == [2]
        with pytest.raises(ApiError, match=r"^a bad image$") as error:
            wrong.future.result(SECONDS)
        assert error.value.status == 400
        with pytest.raises(ApiError, match="its log says why") as error:
            broken.future.result(SECONDS)
        assert error.value.status == 500
        again = job(seed=5)
        own.submit(again)
        assert side(again) == [5]
    assert [record.message for record in caplog.records] == ["a batch failed"]


def test_images_of_a_failed_job_are_not_sampled_any_more() -> None:
    sampler = Sampler()
    with batcher(sampler, batch_size=2) as own:
        wrong = job(6, 13)
        own.submit(wrong)
        with pytest.raises(ApiError):
            wrong.future.result(SECONDS)
        own.submit(last := job(seed=1))
        assert side(last) == [1]
        assert own.waiting == 0
    assert sampler.batches == [[(13, 0), (13, 1)], [(1, 0)]]


def test_a_stopped_batcher_fails_what_is_left() -> None:
    sampler = Sampler()
    with batcher(sampler) as own:
        running = hold(sampler, own)
        waiting = job(seed=2)
        own.submit(waiting)
        own.stop(SECONDS)
        for one in (running, waiting):
            with pytest.raises(ApiError) as error:
                one.future.result(SECONDS)
            assert error.value.status == 503
        with pytest.raises(ApiError, match="stopping"):
            own.submit(job())
