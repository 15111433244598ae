"""Moving average of the weights."""

from __future__ import annotations

import pytest
import torch

from imgtf.training.ema import EMA


def test_the_decay_starts_low_and_reaches_its_value() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    ema = EMA(model, decay=0.99)
    torch.nn.init.ones_(model.weight)
    ema.update(0)
    assert ema.state()["weight"].item() == pytest.approx(0.9)
    before = ema.state()["weight"].item()
    torch.nn.init.zeros_(model.weight)
    ema.update(10_000)
    assert ema.state()["weight"].item() == pytest.approx(0.99 * before)


def test_averaged_weights_are_used_only_within_the_block() -> None:
    model = torch.nn.Linear(2, 2)
    raw = model.weight.detach().clone()
    ema = EMA(model, decay=0.5)
    ema.average["weight"].fill_(7.0)
    with ema.applied():
        assert (model.weight == 7).all()
    assert torch.equal(model.weight, raw)
    assert (ema.average["weight"] == 7).all()
