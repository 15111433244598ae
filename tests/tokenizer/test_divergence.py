"""The divergence monitor's actions, log line by log line."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from imgtf.tokenizer import divergence
from imgtf.tokenizer.divergence import DivergenceMonitor
from imgtf.tokenizer.recipe import TokenizerRecipe


@pytest.fixture(autouse=True)
def short_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(divergence, "WINDOW", 2)


def make_monitor(**changes: Any) -> DivergenceMonitor:
    """Discriminator from step 20 on, full weight at 40; log lines every 10 steps; windows of 2 lines; 1 dB."""
    settings: dict[str, Any] = {"discriminator_start": 20, "discriminator_ramp": 20}
    return DivergenceMonitor(TokenizerRecipe(**settings | changes), log_every=10)


def line(l2: float = 0.1, real: float = 0.7, fake: float = 0.7) -> dict[str, float]:
    return {"l2": l2, "accuracy_real": real, "accuracy_fake": fake}


BEFORE: list[dict[str, float]] = [{"l2": 0.1}, {"l2": 0.1}]
"""The lines before the discriminator starts."""


def actions(monitor: DivergenceMonitor, lines: list[dict[str, float]]) -> list[str | None]:
    found = [monitor.observe(10 * (i + 1), metrics) for i, metrics in enumerate(lines)]
    return [action.action if action else None for action in found]


def test_snapshots_are_taken_before_the_start_and_at_every_new_best_psnr() -> None:
    lines = [{"l2": 0.2}, {"l2": 0.1}, line(0.1), line(0.1), line(0.11), line(0.08)]
    assert actions(make_monitor(), lines) == [None, "snapshot", "snapshot", None, None, "snapshot"]


def test_a_start_between_two_lines_takes_the_snapshot_at_the_first() -> None:
    monitor = make_monitor(discriminator_start=25)
    assert actions(monitor, [{"l2": 0.2}, {"l2": 0.1}, line(0.2)])[1] == "snapshot"


def test_a_lower_psnr_rolls_back_and_reduces_the_weight() -> None:
    monitor = make_monitor()
    assert actions(monitor, [*BEFORE, line(0.1), line(0.2)])[-1] == "roll_back"
    assert (monitor.weight_ratio, monitor.ramp_start, monitor.rollbacks) == (0.5, 40, 1)
    # The window is empty after a rollback, so it then holds the next line alone.
    assert monitor.observe(50, line(0.1)) is None
    second = monitor.observe(60, line(0.3))
    assert second is not None
    assert "fell from 16.02 to 13.01 dB" in second.reason
    assert (monitor.weight_ratio, monitor.ramp_start, monitor.rollbacks) == (0.125, 60, 2)


def test_consecutive_rollbacks_reduce_the_weight_by_more_each_time() -> None:
    monitor = make_monitor()
    actions(monitor, BEFORE)
    ratios = []
    for step in (30, 60, 90, 300):  # a ramp and a window take 40 steps, so the last one is not consecutive
        assert monitor.observe(step, line(0.9)).action == "roll_back"  # type: ignore[union-attr]
        ratios.append(monitor.weight_ratio)
    assert ratios == [1 / 2, 1 / 8, 1 / 64, 1 / 128]


def test_a_drop_below_the_margin_is_tolerated(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [*BEFORE, line(0.1), line(0.12), line(0.12), line(0.12)]
    assert "roll_back" not in actions(make_monitor(), lines)
    monkeypatch.setattr(divergence, "MARGIN", 0.5)
    assert "roll_back" in actions(make_monitor(), lines)


def test_a_discriminator_that_wins_rolls_back_once_its_ramp_is_over() -> None:
    winning = line(0.1, 0.99, 1.0)
    monitor = make_monitor()
    # Its accuracy counts from step 40 on; two lines are a window.
    found = actions(monitor, [*BEFORE, winning, winning, winning])
    assert found == [None, "snapshot", None, None, "roll_back"]
    assert monitor.ramp_start == 50


def test_high_accuracy_on_one_side_only_is_tolerated() -> None:
    assert "roll_back" not in actions(make_monitor(), [*BEFORE, *[line(0.1, 1.0, 0.2)] * 8])


def test_an_error_that_is_not_finite_rolls_back() -> None:
    monitor = make_monitor()
    assert actions(monitor, [*BEFORE, line(math.nan)])[-1] == "roll_back"
    assert monitor.errors == []


def test_without_a_snapshot_only_the_weight_is_reduced() -> None:
    monitor = make_monitor(discriminator_start=0, discriminator_ramp=0)
    monitor.best_psnr = 50.0
    action = monitor.observe(10, line(0.1, 1.0, 1.0))
    assert action is not None
    assert (action.action, monitor.weight_ratio) == ("reduce_weight", 0.5)


@pytest.mark.parametrize("halfway", [1, 3, 5, 6])
def test_a_restored_state_continues_exactly(halfway: int) -> None:
    winning = line(0.1, 1.0, 1.0)
    lines = [*BEFORE, line(0.09), line(0.5), winning, winning, line(0.1)]
    whole, first, second = make_monitor(), make_monitor(), make_monitor()
    expected = actions(whole, lines)
    begun = actions(first, lines[:halfway])
    second.load_state(json.loads(json.dumps(first.state())))
    rest = [second.observe(10 * (halfway + i + 1), metrics) for i, metrics in enumerate(lines[halfway:])]
    assert begun + [action.action if action else None for action in rest] == expected
    assert second.state() == whole.state()
