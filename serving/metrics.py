"""What `/metrics` shows, in the text format of Prometheus."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from .batcher import Batcher

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 7.5, 10, 20, 30, 60, 120, 300)
SIZES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256, 512, 1024)


class Metrics:
    """The metrics of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.requests = self._counter(
            "imgtf_requests", "Requests by route and status; 499: the client has gone.", ("route", "status")
        )
        self.seconds = Histogram(
            "imgtf_request_seconds", "Seconds from the first byte of a request to the end of its answer.", ("route",),
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self.images = self._counter("imgtf_images", "Images that were sampled.")
        self.work = self._counter("imgtf_sampling_seconds", "Seconds of sampling.")
        self.batches = Histogram(
            "imgtf_batch_size", "Images of a batch.", buckets=SIZES, registry=self.registry
        )

    def watch(self, batcher: Batcher) -> None:
        """Show the queue of a batcher."""
        self._gauge("imgtf_queue_images", "Images that wait.").set_function(lambda: batcher.waiting)
        self._gauge("imgtf_running_images", "Images of the running batch.").set_function(
            lambda: batcher.running
        )
        self._gauge(
            "imgtf_samples_per_second", "Images per second of sampling, over the last 32 batches."
        ).set_function(lambda: batcher.rate)

    def batch(self, images: int, seconds: float) -> None:
        """Count one batch."""
        self.images.inc(images)
        self.work.inc(seconds)
        self.batches.observe(images)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count one answer."""
        self.requests.labels(route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """All metrics."""
        return bytes(generate_latest(self.registry))

    def _counter(self, name: str, about: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(name, about, labels, registry=self.registry)

    def _gauge(self, name: str, about: str) -> Gauge:
        return Gauge(name, about, registry=self.registry)
