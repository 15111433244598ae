"""The training state on disk."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator

from imgtf.errors import CheckpointError
from imgtf.training.accelerator import make_accelerator
from imgtf.training.checkpoint import (
    BEST_FILE,
    Progress,
    load_state,
    random_state,
    save_state,
    set_random_state,
)
from imgtf.training.config import TrainingConfig
from imgtf.training.ema import EMA
from imgtf.training.snapshot import restore_snapshot, take_snapshot
from imgtf.training.stage import Stage
from imgtf.training.states import find_state, latest_state, remove_unfinished, states, step_of

CONFIG = TrainingConfig(device="cpu", precision="fp32")


class Line(Stage):
    """Fits a line to noise."""

    name = "line"
    metric = "loss"

    def __init__(self) -> None:
        self.model = torch.nn.Linear(2, 1)  # type: ignore[assignment]

    def train_batches(self, start_step: int): ...
    def evaluate(self): ...
    def preview(self, path: Path) -> None: ...

    def step(self, batch):
        loss = self.network(batch).square().mean()
        return {"loss": loss, **self.update(loss)}

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"own": torch.arange(3)}


@pytest.fixture
def accelerator() -> Accelerator:
    made = make_accelerator(CONFIG)
    made.gradient_state._set_sync_gradients(True)  # a test that failed on purpose within a batch leaves False
    return made


def trained(accelerator: Accelerator, steps: int = 3) -> tuple[Line, EMA]:
    stage = Line()
    stage.prepare(accelerator, CONFIG)
    ema = EMA(stage.model, 0.9)
    for step in range(steps):
        stage.step(torch.randn(4, 2))
        ema.update(step)
    return stage, ema


def progress(step: int) -> Progress:
    sums = {"sum/loss": torch.ones(()), "count/loss": torch.ones(())}
    return Progress(step, {"step": 2, "metrics": {"loss": 0.5}}, sums, {})


def test_a_state_restores_weights_optimizer_average_and_random_numbers(
    accelerator: Accelerator, tmp_path: Path
) -> None:
    stage, ema = trained(accelerator)
    save_state(tmp_path, stage, ema, accelerator, progress(3))
    saved, expected = take_snapshot(stage, ema), torch.rand(3)
    other, other_ema = trained(accelerator, steps=5)
    state = latest_state(tmp_path)
    assert state is not None
    loaded = load_state(state, other, other_ema, accelerator)
    assert (loaded.step, loaded.best, loaded.sums) == (3, progress(3).best, progress(3).sums)
    restored = take_snapshot(other, other_ema)
    assert saved.keys() == restored.keys()
    assert [name for name in saved if not torch.equal(saved[name], restored[name])] == []
    assert torch.equal(torch.rand(3), expected)


def test_only_the_newest_state_is_kept(
    accelerator: Accelerator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stage, ema = trained(accelerator)
    (tmp_path / "step-00000001.tmp").mkdir()  # left by a killed run
    assert latest_state(tmp_path) is None
    with caplog.at_level("INFO", "imgtf"):
        remove_unfinished([tmp_path])
    assert "removed what a killed run left half-written" in caplog.text
    for step in (2, 4):
        save_state(tmp_path, stage, ema, accelerator, progress(step))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000004"]


def test_the_last_states_and_the_best_weights_are_kept(accelerator: Accelerator, tmp_path: Path) -> None:
    stage, ema = trained(accelerator)
    best = tmp_path / "best.safetensors"
    for step in (2, 4, 6, 8):
        best.unlink(missing_ok=True)
        best.write_bytes(bytes([step]))
        save_state(tmp_path / "state", stage, ema, accelerator, progress(step), keep=3, best=best)
    assert [step_of(state) for state in states(tmp_path / "state")] == [4, 6, 8]
    assert (find_state(tmp_path / "state", 4) / BEST_FILE).read_bytes() == bytes([4])
    with pytest.raises(CheckpointError, match="no saved state of step 2; there are states of steps 4, 6, 8"):
        find_state(tmp_path / "state", 2)


def test_a_snapshot_is_restored_any_number_of_times(accelerator: Accelerator) -> None:
    stage, ema = trained(accelerator)
    snapshot = take_snapshot(stage, ema)
    for _ in range(2):
        stage.step(torch.randn(4, 2))
        assert not torch.equal(snapshot["model/weight"], stage.model.weight)
        restore_snapshot(snapshot, stage, ema)
        assert torch.equal(snapshot["model/weight"], stage.model.weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 1}, "saved by another version of imgtf"),
        ({"best": None}, "best is missing"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(
    accelerator: Accelerator, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    stage, ema = trained(accelerator)
    save_state(tmp_path, stage, ema, accelerator, progress(3))
    file = tmp_path / "step-00000003" / "progress.json"
    values = json.loads(file.read_text()) | change
    file.write_text(json.dumps({k: v for k, v in values.items() if v is not None or k == "scaler"}))
    with pytest.raises(CheckpointError, match=message):
        load_state(tmp_path / "step-00000003", stage, ema, accelerator)


@pytest.mark.parametrize("processes", [2, 8])
def test_a_state_of_more_processes_restores_weights_and_step(
    accelerator: Accelerator, tmp_path: Path, processes: int, caplog: pytest.LogCaptureFixture
) -> None:
    stage, ema = trained(accelerator)
    save_state(tmp_path, stage, ema, accelerator, progress(3))
    saved, file = take_snapshot(stage, ema), tmp_path / "step-00000003" / "progress.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"processes": processes}))
    other, other_ema = trained(accelerator, steps=5)
    with caplog.at_level("INFO", "imgtf"):
        loaded = load_state(file.parent, other, other_ema, accelerator)
    assert (loaded.step, loaded.sums) == (3, {})
    restored = take_snapshot(other, other_ema)
    assert [name for name in saved if not torch.equal(saved[name], restored[name])] == []
    assert f"saved by {processes} processes, resumed with 1" in caplog.text


def test_a_further_process_continues_the_random_numbers_of_the_others(
    accelerator: Accelerator, tmp_path: Path
) -> None:
    stage, ema = trained(accelerator)
    save_state(tmp_path, stage, ema, accelerator, progress(3))
    drawn = torch.rand(3)
    second = SimpleNamespace(process_index=1, num_processes=2, scaler=None, device=accelerator.device)
    load_state(tmp_path / "step-00000003", stage, ema, second)  # type: ignore[arg-type]
    assert torch.equal(torch.rand(3), drawn)


def test_damaged_files_are_named(accelerator: Accelerator, tmp_path: Path) -> None:
    stage, ema = trained(accelerator)
    for name in ("model", "optimizer", "ema", "stage-0", "sums-0", "snapshot", "random-0"):
        save_state(tmp_path, stage, ema, accelerator, progress(3))
        (tmp_path / "step-00000003" / f"{name}.safetensors").write_bytes(b"x")
        with pytest.raises(CheckpointError, match=rf"{name}\.safetensors: damaged"):
            load_state(tmp_path / "step-00000003", stage, ema, accelerator)


def test_a_full_disk_keeps_the_previous_state(
    accelerator: Accelerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, ema = trained(accelerator)
    save_state(tmp_path, stage, ema, accelerator, progress(3))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("imgtf.training.checkpoint.write_text", full)
    monkeypatch.setattr("imgtf.runtime.durable.PAUSES", (0.0, 0.0))
    with pytest.raises(CheckpointError, match=r"No space left on device\); the previous state is kept"):
        save_state(tmp_path, stage, ema, accelerator, progress(4))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000003"]


def test_random_numbers_repeat() -> None:
    state = random_state()
    first = torch.rand(3)
    set_random_state(state)
    assert torch.equal(torch.rand(3), first)
