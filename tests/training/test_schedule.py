"""Learning rate schedule."""

from __future__ import annotations

import pytest

from imgtf.training.config import TrainingConfig
from imgtf.training.schedule import learning_rate


def test_the_learning_rate_rises_and_falls() -> None:
    config = TrainingConfig(steps=100, warmup=10, lr=1.0, final_lr_ratio=0.1)
    rates = [learning_rate(step, config) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == 1.0
    assert rates[55] == pytest.approx(0.55)
    assert sorted(rates[10:], reverse=True) == rates[10:]
    assert rates[-1] == pytest.approx(0.1 + 0.9 / 90)  # one step before the end
    assert rates[10] - rates[11] == pytest.approx(rates[98] - rates[99])
    assert learning_rate(500, config) == pytest.approx(0.1)
