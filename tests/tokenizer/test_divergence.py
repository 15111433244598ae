"""The doctor's judgement, line by line."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from imgtf.tokenizer.config import TokenizerRecipe
from imgtf.tokenizer.divergence import DivergenceMonitor


def doctor(**changes: Any) -> DivergenceMonitor:
    """Discriminator from step 20, full weight at 40; log lines every 10 steps; means over 2 lines; 1 dB."""
    settings: dict[str, Any] = {"discriminator_start": 20, "discriminator_ramp": 20, "doctor_window": 2}
    return DivergenceMonitor(TokenizerRecipe(**settings | changes), log_every=10)


def line(l2: float = 0.1, real: float = 0.7, fake: float = 0.7) -> dict[str, float]:
    return {"l2": l2, "accuracy_real": real, "accuracy_fake": fake}


def actions(one: DivergenceMonitor, lines: list[dict[str, float]]) -> list[str | None]:
    verdicts = [one.observe(10 * (i + 1), figures) for i, figures in enumerate(lines)]
    return [v.action if v else None for v in verdicts]


def test_weights_are_kept_before_the_start_and_at_every_new_best() -> None:
    lines = [{"l2": 0.2}, {"l2": 0.1}, line(0.1), line(0.1), line(0.11), line(0.08)]
    assert actions(doctor(), lines) == [None, "keep", "keep", None, None, "keep"]


def test_the_last_line_before_a_start_between_two_lines_is_kept() -> None:
    assert actions(doctor(discriminator_start=25), [{"l2": 0.2}, {"l2": 0.1}, line(0.2)])[1] == "keep"


def test_lost_quality_goes_back_and_eases_the_discriminator() -> None:
    one = doctor()
    assert actions(one, [{"l2": 0.1}, {"l2": 0.1}, line(0.1), line(0.2)])[-1] == "roll back"
    assert (one.scale, one.since, one.rollbacks) == (0.5, 40, 1)
    # 1.5 times the error is 1.76 dB, but the first line after a rollback stands alone
    assert one.observe(50, line(0.1)) is None
    again = one.observe(60, line(0.3))
    assert again is not None
    assert "fell from 16.02 to 13.01 dB" in again.reason
    assert (one.scale, one.since, one.rollbacks) == (0.125, 60, 2)


def test_troubles_in_a_row_ease_by_more_each_time_and_one_much_later_does_not() -> None:
    one = doctor()
    actions(one, [{"l2": 0.1}, {"l2": 0.1}])
    scales = []
    for step in (30, 60, 90, 300):  # each lasting trouble is seen at once; a ramp and a window take 40 steps
        assert one.observe(step, line(0.9)).action == "roll back"  # type: ignore[union-attr]
        scales.append(one.scale)
    assert scales == [1 / 2, 1 / 8, 1 / 64, 1 / 128]


def test_less_than_the_margin_is_borne() -> None:
    lines = [{"l2": 0.1}, {"l2": 0.1}, line(0.1), line(0.12), line(0.12), line(0.12)]
    assert "roll back" not in actions(doctor(), lines)
    assert "roll back" in actions(doctor(doctor_margin=0.5), lines)


def test_an_unbeatable_discriminator_goes_back() -> None:
    sure = line(0.1, 0.99, 1.0)
    one = doctor()
    start: list[dict[str, float]] = [{"l2": 0.1}, {"l2": 0.1}]
    # Under the ramp its success is no surprise; from step 40 two lines make a window.
    assert actions(one, [*start, sure, sure, sure]) == [None, "keep", None, None, "roll back"]
    assert one.since == 50


def test_one_sided_accuracy_is_no_victory() -> None:
    assert "roll back" not in actions(doctor(), [{"l2": 0.1}] * 2 + [line(0.1, 1.0, 0.2)] * 8)


def test_what_is_no_number_goes_back() -> None:
    one = doctor()
    assert actions(one, [{"l2": 0.1}, {"l2": 0.1}, line(math.nan)])[-1] == "roll back"
    assert one.errors == []


def test_with_nothing_kept_it_can_only_ease() -> None:
    one = doctor(discriminator_start=0, discriminator_ramp=0)
    sure = line(0.1, 1.0, 1.0)
    one.best = 50.0
    verdict = one.observe(10, sure)
    assert verdict is not None
    assert (verdict.action, one.scale) == ("ease", 0.5)


@pytest.mark.parametrize("halfway", [1, 3, 5, 6])
def test_its_memory_survives_json(halfway: int) -> None:
    lines = [
        {"l2": 0.1},
        {"l2": 0.1},
        line(0.09),
        line(0.5),
        line(0.1, 1.0, 1.0),
        line(0.1, 1.0, 1.0),
        line(0.1),
    ]
    whole, first, second = doctor(), doctor(), doctor()
    expected = actions(whole, lines)
    begun = actions(first, lines[:halfway])
    second.load_state(json.loads(json.dumps(first.state())))
    rest = [second.observe(10 * (halfway + i + 1), f) for i, f in enumerate(lines[halfway:])]
    assert begun + [v.action if v else None for v in rest] == expected
    assert second.state() == whole.state()
