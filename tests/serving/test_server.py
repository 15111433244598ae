"""The server around the routes: health, metrics, unknown routes, limits, a full queue, clients that leave, the end."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from PIL import Image

from imgtf.errors import ConfigError
from imgtf.pipelines.request import Progress
from imgtf.serving import gate
from imgtf.serving.config import ServingConfig
from imgtf.serving.job import Row
from imgtf.serving.server import address_of, bind

from .conftest import Running, equal, error_of, images_of, running, tiny

SECONDS = 20


def until(condition: Callable[[], object]) -> None:
    """Wait for a condition."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@contextmanager
def held(server: Running) -> Iterator[threading.Event]:
    """Batches do not end before the event is set, or the block ends."""
    sample, go = server.service.batcher.sample, threading.Event()

    def waiting(rows: Sequence[Row], progress: Progress) -> list[Image.Image]:
        while not go.wait(0.005):
            progress(0)
        return sample(rows, progress)

    server.service.batcher.sample = waiting
    try:
        yield go
    finally:
        go.set()
        server.service.batcher.sample = sample


def test_health_describes_the_model(server: Running) -> None:
    health = server.client.get("/health").json()
    assert health["ready"] is True
    assert (health["model"], health["device"], health["precision"]) == ("tiny", "cpu", "fp32")
    assert health["queue"] == {"waiting": 0, "running": 0, "limit": 128}
    assert health["size"] == "16x16"


def test_metrics_count_requests_images_and_batches(server: Running) -> None:
    assert server.generate(n=3).status_code == 200
    assert server.generate(n=-1).status_code == 400
    text = server.client.get("/metrics").text
    for line in (
        'imgtf_requests_total{route="/v1/images/generations",status="200"}',
        'imgtf_requests_total{route="/v1/images/generations",status="400"}',
        'imgtf_request_seconds_bucket{le="0.05",route="/v1/images/generations"}',
        "imgtf_images_total", "imgtf_batch_size_count", "imgtf_queue_images 0.0", "imgtf_samples_per_second",
        "process_resident_memory_bytes",
    ):  # fmt: skip
        assert f"\n{line}" in text


def test_unknown_routes_and_methods_have_the_shape_of_errors(server: Running) -> None:
    assert error_of(server.client.get("/v2"), 404)["code"] == "not_found"
    assert error_of(server.client.get("/docs"), 404)["code"] == "not_found"
    assert error_of(server.client.post("/v1/images/variations"), 404)["type"] == "invalid_request_error"
    answer = server.client.get("/v1/images/generations")
    assert error_of(answer, 405)["code"] == "method_not_allowed"
    assert answer.headers["allow"] == "POST"
    assert 'route="other",status="404"' in server.client.get("/metrics").text


def test_the_schema_names_every_field(server: Running) -> None:
    schema = server.client.get("/openapi.json").json()["paths"]
    json_body = schema["/v1/images/generations"]["post"]["requestBody"]["content"]["application/json"]
    form = schema["/v1/images/edits"]["post"]["requestBody"]["content"]["multipart/form-data"]
    assert {"prompt", "label", "seed", "top_k"} <= json_body["schema"]["properties"].keys()
    assert {"image", "mask", "seed"} <= form["schema"]["properties"].keys()


def test_a_full_queue_is_429_and_empties_again() -> None:
    with running(tiny("label"), queue=2, max_n=2, batch_size=1) as server, ThreadPoolExecutor() as threads:
        with held(server) as go:
            first = threads.submit(server.generate, seed=1)
            until(lambda: server.service.batcher.running)
            second = threads.submit(server.generate, seed=2, n=2)
            until(lambda: server.service.batcher.waiting == 2)
            answer = server.generate(seed=3)
            assert error_of(answer, 429)["code"] == "queue_full"
            assert int(answer.headers["retry-after"]) >= 1
            assert server.client.get("/health").json()["queue"] == {"waiting": 2, "running": 1, "limit": 2}
            go.set()
            assert equal(first.result(SECONDS), server.pipeline.sample(1, seed=1))
            assert equal(second.result(SECONDS), server.pipeline.sample(2, seed=2))
        assert equal(server.generate(seed=3), server.pipeline.sample(1, seed=3))


def test_a_client_that_leaves_frees_its_place() -> None:
    with running(tiny("label"), batch_size=1) as server, held(server):
        for _ in range(2):
            with pytest.raises(httpx.ReadTimeout):
                server.client.post("/v1/images/generations", json={"n": 5}, timeout=0.3)
            until(lambda: not server.service.batcher.waiting and not server.service.batcher.running)
            until(lambda: not server.service.active)
        assert 'status="499"} 2.0' in server.client.get("/metrics").text


def sent(server: Running, text: str) -> socket.socket:
    """Open a connection, and send the start of a request for images."""
    url = server.client.base_url
    connection = socket.create_connection((url.host, url.port or 0), timeout=SECONDS)
    connection.sendall(f"POST /v1/images/generations HTTP/1.1\r\nHost: a\r\n{text}".encode())
    return connection


def test_a_client_that_leaves_while_it_sends_leaves_nothing(server: Running) -> None:
    with sent(server, "Content-Length: 100\r\n\r\n{"):
        until(lambda: server.service.active)
    until(lambda: not server.service.active)


def test_a_body_that_does_not_arrive_is_ended(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "BODY_SECONDS", 0.1)
    with sent(server, "Content-Length: 100\r\n\r\n{") as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 408")


def test_a_client_that_asks_first_does_not_send_a_large_body(server: Running) -> None:
    with sent(server, f"Content-Length: {2**40}\r\nExpect: 100-continue\r\n\r\n") as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 400")


def test_a_large_body_is_refused_whole(server: Running) -> None:
    body = b'{"prompt": "' + b"x" * (20 * 2**20) + b'"}'
    error = error_of(server.client.post("/v1/images/generations", content=body))
    assert error["code"] == "request_too_large"
    body = b"x" * (100 * 2**20)
    assert error_of(server.client.post("/v1/images/edits", content=body))["code"] == "request_too_large"
    chunks = (b"x" * 2**20 for _ in range(20))  # without Content-Length
    assert error_of(server.client.post("/v1/images/edits", content=chunks))["code"] == "request_too_large"


def test_a_fault_of_the_program_is_500_in_the_same_shape(
    server: Running, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    def broken(*arguments: Any) -> Any:
        raise RuntimeError("a fault")

    monkeypatch.setattr(server.service, "answer", broken)
    assert error_of(server.generate(), 500)["type"] == "server_error"
    monkeypatch.undo()
    assert images_of(server.generate())


def test_the_end_waits_for_running_requests_and_refuses_new_ones() -> None:
    with running(tiny("label")) as server, held(server) as go, ThreadPoolExecutor() as threads:
        first = threads.submit(server.generate, seed=1, n=2)
        until(lambda: server.service.batcher.running)
        server.service.drain()
        answer = server.generate(seed=2)
        assert error_of(answer, 503)["code"] == "stopping"
        assert answer.headers["retry-after"]
        health = server.client.get("/health")
        assert (health.status_code, health.json()["status"]) == (503, "stopping")
        go.set()
        assert equal(first.result(SECONDS), server.pipeline.sample(2, seed=1))


def test_the_end_does_not_wait_longer_than_it_may() -> None:
    with running(tiny("label"), drain_seconds=0.2) as server, held(server), ThreadPoolExecutor() as threads:
        first = threads.submit(server.generate, seed=1)
        until(lambda: server.service.batcher.running)
        server.service.drain()
        assert error_of(first.result(SECONDS), 503)["code"] == "stopping"


def test_a_port_in_use_and_a_wrong_host_are_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as used:
        port = used.getsockname()[1]
        with pytest.raises(
            ConfigError, match=rf"port {port} of 127\.0\.0\.1: address already in use; .*--port"
        ):
            bind("127.0.0.1", port)
    with bind("127.0.0.1", 0) as bound:
        assert address_of(bound) == f"http://127.0.0.1:{bound.getsockname()[1]}"
    with pytest.raises(ConfigError, match=r"--host 256\.1\.1\.1"):
        bind("256.1.1.1", 0)


def test_a_queue_must_hold_a_request() -> None:
    with pytest.raises(ConfigError, match="raise --queue"):
        ServingConfig(queue=4, max_n=5)
