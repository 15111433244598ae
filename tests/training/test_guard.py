"""Updates that are skipped: numbers that are not finite, and spikes of the gradient norm."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from imgtf.errors import ImgtfError
from imgtf.training import guard as guard_module
from imgtf.training.config import TrainingConfig
from imgtf.training.snapshot import take_snapshot

from .line import LineStage, log_rows, trainer

NAN = float("nan")


def spoiled_at(*steps: int, factor: float = NAN) -> Any:
    return lambda step, x: x * factor if step in steps else x


def stage_of(folder: Path, spoil: Any = lambda _, x: x, **settings: Any) -> LineStage:
    config = TrainingConfig(device="cpu", precision="fp32", **settings)
    return trainer(folder, LineStage(config, spoil), **settings).stage  # type: ignore[return-value]


def updates(stage: LineStage, inputs: list[Tensor]) -> None:
    for i, x in enumerate(inputs):
        stage.completed_steps = i
        stage.network.train()
        stage.guard.begin(stage.trained_modules().values())
        with stage.accelerator.accumulate(stage.network):
            stage.step({"x": x, "noise": torch.zeros(())})
        stage.guard.end()


def batches(n: int) -> list[Tensor]:
    return list(torch.randn(n, 4, 2, generator=torch.Generator().manual_seed(1)))


def test_without_faults_every_update_is_that_of_plain_adamw(tmp_path: Path) -> None:
    stage = stage_of(tmp_path, lr=0.01)
    plain = copy.deepcopy(stage.model)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=0.01, betas=(0.9, 0.99), weight_decay=0, fused=True)
    updates(stage, batches(5))
    for x in batches(5):
        (plain.train()(x) - x.sum(1, keepdim=True)).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    for a, b in zip(stage.model.state_dict().values(), plain.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_fault_leaves_weights_moments_and_buffers_as_they_were(value: float, tmp_path: Path) -> None:
    good, bad = stage_of(tmp_path / "a"), stage_of(tmp_path / "b")
    updates(good, batches(3))
    first, second, third = batches(3)
    updates(bad, [first, second, torch.full((4, 2), value), third])
    a, b = take_snapshot(good, None), take_snapshot(bad, None)
    assert [name for name in a if not torch.equal(a[name], b[name])] == []
    assert (bad.guard.take_skipped(), bad.guard.take_skipped(), bad.guard.streak()) == (1, 0, 0)


def test_one_bad_micro_batch_skips_the_whole_update(tmp_path: Path) -> None:
    run = trainer(tmp_path, LineStage(TrainingConfig(), spoiled_at(3)), gradient_accumulation_steps=2)
    run.run()
    assert [row["skipped_steps"] for row in log_rows(tmp_path) if "skipped_steps" in row] == [1]


def test_fp16_gradients_that_overflow_are_no_fault(tmp_path: Path) -> None:
    stage = stage_of(tmp_path)
    stage.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**126)
    before = take_snapshot(stage, None)
    updates(stage, [1e4 * x for x in batches(1)])
    after = take_snapshot(stage, None)
    assert torch.equal(before["model/line.weight"], after["model/line.weight"])
    assert (stage.guard.take_skipped(), stage.guard.streak()) == (0, 0)
    assert stage.accelerator.scaler.get_scale() == 2.0**125
    updates(stage, [x * math.nan for x in batches(2)])
    assert (stage.guard.take_skipped(), stage.guard.streak()) == (2, 2)


def test_spikes_are_skipped_until_they_are_the_new_level(tmp_path: Path) -> None:
    stage = stage_of(tmp_path, lr=0.0, skip_spikes=5.0)
    usual = [x / 100 for x in batches(1)] * 60
    updates(stage, [*usual, batches(1)[0] * 10, *usual])
    assert (stage.guard.take_skipped(), stage.guard.streak()) == (1, 0)
    updates(stage, [batches(1)[0] * 10] * 200)
    assert 0 < stage.guard.take_skipped() < guard_module.NORMS


def test_the_guard_continues_from_a_saved_state(tmp_path: Path) -> None:
    first, second = (stage_of(tmp_path / name, lr=0.0, skip_spikes=5.0) for name in "ab")
    updates(first, [x / 100 for x in batches(1)] * 30)
    second.guard.load(first.guard.tensors())
    updates(second, [batches(1)[0] * 10])
    assert second.guard.take_skipped() == 1


def test_a_skipped_step_is_in_the_log_and_not_in_its_means(tmp_path: Path) -> None:
    trainer(tmp_path, LineStage(TrainingConfig(), spoiled_at(2, 4, 5))).run()
    rows = [row for row in log_rows(tmp_path) if "lr" in row]
    assert [row.get("skipped_steps", 0) for row in rows] == [0, 1, 2, 0, 0, 0]
    assert ["loss" in row for row in rows] == [True, True, False, True, True, True]


def test_a_passing_streak_goes_back_to_the_last_good_state(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    calls = []

    def spoil(step: int, x: Tensor) -> Tensor:
        calls.append(step)
        return x * NAN if step >= 8 and calls.count(8) == 1 else x

    trainer(tmp_path / "whole", steps=30).run()
    trainer(tmp_path / "lost", LineStage(TrainingConfig(), spoil), steps=30).run()
    assert "at step 18: going back to the state of step 6, once" in caplog.text
    whole, lost = ((tmp_path / name / "line/model.safetensors").read_bytes() for name in ("whole", "lost"))
    assert whole == lost
    assert [row["step"] for row in log_rows(tmp_path / "whole")] == [
        row["step"] for row in log_rows(tmp_path / "lost")
    ]


@pytest.mark.parametrize(
    ("first", "message"),
    [(8, "again, after going back to the last good state: try a lower --lr"), (1, "before the first saved")],
)
def test_a_lasting_streak_stops_with_what_to_try(first: int, message: str, tmp_path: Path) -> None:
    stage = LineStage(TrainingConfig(), lambda step, x: x * NAN if step >= first else x)
    with pytest.raises(ImgtfError, match=message):
        trainer(tmp_path, stage, steps=60).run()
    states = [path.name for path in (tmp_path / "training/line/state").glob("*")]
    assert states == (["step-00000006"] if first == 8 else [])


def test_a_loss_that_is_not_finite_in_one_process_skips_the_update_of_all(tmp_path: Path) -> None:
    stage = stage_of(tmp_path)
    of_others = torch.ones(())
    stage.guard.accelerator = SimpleNamespace(num_processes=2, reduce=lambda own, _: own + of_others)  # type: ignore[assignment]
    stage.guard.begin([stage.model])
    assert stage.guard.judge([torch.ones(())], 0, scaled=False) == 1
    of_others.zero_()
    assert stage.guard.judge([torch.ones(())], 0, scaled=False) == 0
