"""The queue of images and the thread that samples them, batch by batch.

The thread owns the model: nothing else runs it. A batch takes the oldest image and those that can be sampled with it.
It starts when it is full, or when no image has come for `batch_wait`. After a batch it waits for a tenth of its
time at least: clients that have just been answered, and ask again, are in the next batch. Without that, 16 clients end
up in two groups of 8.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from PIL import Image

from ..errors import ImgtfError, is_out_of_memory
from ..pipelines.request import Progress
from .errors import ApiError, stopping
from .job import Job, Row

logger = logging.getLogger("imgtf.serving")

RECENT = 32
"""Batches over which the rate is measured."""
PAUSE = 0.1
"""Shortest wait after a batch, in units of its time."""
MOST_WAITS = 5
"""Longest wait, in units of the shortest."""
MOST_SECONDS = 60
"""Longest time after which a client is asked to try again."""
SampleRows = Callable[[Sequence[Row], Progress], Sequence[Any]]
Finish = Callable[[Sequence[Job]], list[list[Image.Image]]]


class Abandoned(Exception):
    """Nobody waits for the images of the running batch."""


class Batcher:
    """Jobs go in, images come out of their futures.

    Args:
        sample: samples one batch, and returns a part of a job for each row; its exceptions become those of the jobs.
        finish: makes the images of jobs whose parts are all there.
        queue: images that may wait.
        wait: seconds that a batch waits for more images.
        on_batch: called after each batch with its number of images and its seconds.
    """

    def __init__(
        self,
        sample: SampleRows,
        finish: Finish,
        *,
        batch_size: int,
        queue: int,
        wait: float,
        on_batch: Callable[[int, float], None] = lambda images, seconds: None,
    ) -> None:
        self.sample, self.finish = sample, finish
        self.batch_size, self.queue, self.wait = batch_size, queue, wait
        self.on_batch = on_batch
        self._changed = threading.Condition()
        self._waiting: list[Row] = []
        self._running: Sequence[Row] = ()
        self._recent: deque[tuple[int, float]] = deque(maxlen=RECENT)
        self._stopped, self._free_since = False, 0.0
        self._thread = threading.Thread(target=self._work, name="sampler", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout: float | None = None) -> None:
        """Fail all jobs, end the running batch after its current step, and wait for the thread."""
        with self._changed:
            self._stopped = True
            rows, self._waiting = [*self._waiting, *self._running], []
            self._changed.notify_all()
        for row in rows:
            row.job.settle(stopping())
        if self._thread.is_alive():
            self._thread.join(timeout)

    @property
    def waiting(self) -> int:
        """Images in the queue."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Images of the batch that is being sampled."""
        return len(self._running)

    @property
    def rate(self) -> float:
        """Images per second of sampling, over the last batches; 0 before the first."""
        recent = list(self._recent)
        seconds = sum(seconds for _, seconds in recent)
        return sum(images for images, _ in recent) / seconds if seconds else 0.0

    def submit(self, job: Job) -> Future[list[Image.Image]]:
        """Queue the images of a job, and return the future of all of them.

        Raises:
            ApiError: 429, the queue has no place for them; 503, the server is stopping.
        """
        with self._changed:
            if self._stopped:
                raise stopping()
            if len(self._waiting) + job.request.n > self.queue:
                raise self._full(job)
            self._waiting += [Row(job, index) for index in range(job.request.n)]
            self._changed.notify_all()
        return job.future

    def cancel(self, job: Job) -> None:
        """Free the places of a job that nobody waits for."""
        job.future.cancel()
        self._drop(job)

    def _drop(self, job: Job) -> None:
        """Take the waiting images of a job out of the queue."""
        with self._changed:
            self._waiting = [row for row in self._waiting if row.job is not job]
            self._changed.notify_all()

    def _full(self, job: Job) -> ApiError:
        seconds = self._images_ahead / self.rate if self.rate else 1.0
        return ApiError(
            f"the queue is full: {len(self._waiting)} of {self.queue} images wait, and this request asks for "
            f"{job.request.n}; try again later",
            status=429, code="queue_full", retry_after=min(MOST_SECONDS, max(1, math.ceil(seconds))),
        )  # fmt: skip

    @property
    def _images_ahead(self) -> int:
        return len(self._waiting) + len(self._running)

    def _work(self) -> None:
        while rows := self._next():
            self._run(rows)
            with self._changed:
                self._running, self._free_since = (), time.monotonic()

    def _next(self) -> list[Row]:
        """Return the next batch when it is due; no rows when the batcher is stopped."""
        with self._changed:
            while not self._stopped:
                if not self._waiting:
                    self._changed.wait()
                    continue
                oldest = self._waiting[0].job
                rows = [row for row in self._waiting if row.job.key == oldest.key][: self.batch_size]
                left = self._due(oldest, rows[-1].job) - time.monotonic()
                if len(rows) == self.batch_size or left <= 0:
                    taken = set(rows)
                    self._waiting = [row for row in self._waiting if row not in taken]
                    self._running = rows
                    return rows
                self._changed.wait(left)
        return []

    def _due(self, oldest: Job, newest: Job) -> float:
        """Return when a batch that is not full starts."""
        pause = max(self.wait, PAUSE * self._recent[-1][1]) if self.wait and self._recent else self.wait
        since = max(oldest.arrived, self._free_since)
        return min(max(newest.arrived + self.wait, self._free_since + pause), since + MOST_WAITS * pause)

    def _run(self, rows: Sequence[Row]) -> None:
        """Sample a batch. Where it fails, each job runs on its own, so that only a wrong one fails."""
        jobs = list(dict.fromkeys(row.job for row in rows))
        start = time.monotonic()
        try:
            parts = self.sample(rows, lambda _: self._check(jobs))
        except Abandoned:
            return
        except Exception as error:
            self._failed(rows, jobs, error)
            return
        for row, part in zip(rows, parts, strict=True):
            row.job.parts[row.index] = part
        results = self._finished([job for job in jobs if job.complete])
        seconds = time.monotonic() - start
        self._recent.append((len(rows), seconds))
        self.on_batch(len(rows), seconds)
        for job, result in results:
            job.settle(result)

    def _finished(self, jobs: Sequence[Job]) -> list[tuple[Job, list[Image.Image] | Exception]]:
        """Return the images of each job. Where that fails, each job is finished on its own."""
        try:
            return list(zip(jobs, self.finish(jobs), strict=True)) if jobs else []
        except Exception as error:
            if len(jobs) == 1:
                return [(jobs[0], _reported(error))]
            return [result for job in jobs for result in self._finished([job])]

    def _failed(self, rows: Sequence[Row], jobs: Sequence[Job], error: Exception) -> None:
        if len(jobs) == 1:
            self._drop(jobs[0])
            jobs[0].settle(_reported(error))
            return
        for job in jobs:
            self._run([row for row in rows if row.job is job])

    def _check(self, jobs: Sequence[Job]) -> None:
        """Raise Abandoned when nobody waits for any of the jobs."""
        if self._stopped or all(job.future.done() for job in jobs):
            raise Abandoned


def _reported(error: Exception) -> Exception:
    """Return the error of a job as the client sees it, and log a fault of the program."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ImgtfError):
        return ApiError(error)
    if is_out_of_memory(error):
        logger.error("out of memory: %s", error)
        return ApiError("the server has not enough memory for these images", status=500, code="out_of_memory")
    logger.error("a batch failed", exc_info=error)
    return ApiError("the server failed at these images; its log says why", status=500, code="internal_error")
