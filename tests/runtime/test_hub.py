"""Caches that cannot be written, and a Hub that does not answer."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import datasets
import pytest
from huggingface_hub import constants

from imgtf.runtime import hub


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    hub._writable.cache_clear()
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)


def test_a_cache_that_can_be_written_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "new" / "cache")
    assert hub.datasets_cache() == str(tmp_path / "new" / "cache")
    assert list((tmp_path / "new" / "cache").iterdir()) == []


@pytest.mark.parametrize("folder", ["/dev/null/hf", "/proc/hf"])
def test_a_cache_that_cannot_be_written_is_replaced(
    folder: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    with caplog.at_level("INFO", "imgtf"):
        replaced = hub.datasets_cache()
        assert hub.datasets_cache() == replaced
    (Path(replaced) / "file").touch()
    assert caplog.text.count(f"{folder}: cannot be written") == 1


def test_a_hub_that_does_not_answer_is_given_up_after_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "TIMEOUT", 0.3)
    with socket.socket() as silent:  # accepts connections and never answers
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        start = time.perf_counter()
        with hub.cached_if_unreachable() as reason:
            assert constants.HF_HUB_OFFLINE
            assert datasets.config.HF_HUB_OFFLINE
        assert not constants.HF_HUB_OFFLINE
    assert reason
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize("answer", ["200 OK", "403 Forbidden"])
def test_a_hub_that_answers_is_used(answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(
                    f"HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
                )

        thread = threading.Thread(target=serve)
        thread.start()
        with hub.cached_if_unreachable() as reason:
            assert reason == ""
            assert not constants.HF_HUB_OFFLINE
        thread.join()


def test_offline_by_the_user_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "_unreachable", lambda url: pytest.fail("asked"))
    with hub.cached_if_unreachable() as reason:
        assert reason == "HF_HUB_OFFLINE is set"
