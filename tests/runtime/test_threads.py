"""Tests of the number of threads beside other programs."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch

from imgtf.runtime import threads
from imgtf.runtime.threads import fastest_threads, threads_beside_others

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def eight_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    torch.set_num_threads(8)
    yield
    torch.set_num_threads(1)


def machine(monkeypatch: pytest.MonkeyPatch, busy: float, seconds: dict[int, float]) -> None:
    """Pretend that other programs hold so many cores, and that a measurement takes so long with each number."""
    monkeypatch.setattr(threads, "busy_cores", lambda: busy)
    monkeypatch.setattr(threads, "_seconds", lambda: seconds[torch.get_num_threads()])


BUSY = {8: 4.0, 4: 1.0, 2: 1.5, 1: 3.0}


def test_beside_other_programs_the_fastest_number_is_used_and_said_and_then_restored(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    machine(monkeypatch, 4.0, BUSY)
    with caplog.at_level(logging.INFO, "imgtf"), threads_beside_others(CPU):
        assert torch.get_num_threads() == 4
    assert torch.get_num_threads() == 8
    assert "threads: 4 in place of 8" in caplog.text


def test_an_error_restores_the_number(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 4.0, BUSY)
    with pytest.raises(KeyboardInterrupt), threads_beside_others(CPU):
        raise KeyboardInterrupt
    assert torch.get_num_threads() == 8


@pytest.mark.parametrize(
    ("busy", "seconds"),
    [(0.1, BUSY), (4.0, {8: 1.0, 4: 0.9, 2: 1.5, 1: 3.0})],
    ids=["an idle machine", "no number is much faster"],
)
def test_else_the_number_stays(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, busy: float, seconds: dict[int, float]
) -> None:
    machine(monkeypatch, busy, seconds)
    with caplog.at_level(logging.INFO, "imgtf"), threads_beside_others(CPU):
        assert torch.get_num_threads() == 8
    assert not caplog.text


def test_the_users_number_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    machine(monkeypatch, 4.0, BUSY)
    with threads_beside_others(CPU):
        assert torch.get_num_threads() == 8


def test_a_measurement_leaves_the_number() -> None:
    torch.set_num_threads(2)
    assert fastest_threads(2) in (1, 2)
    assert torch.get_num_threads() == 2
