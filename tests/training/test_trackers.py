"""Metrics sent to experiment trackers through Accelerate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from accelerate.tracking import GeneralTracker

from imgtf.errors import ConfigError
from imgtf.training import accelerator
from imgtf.training.accelerator import check_trackers
from imgtf.training.config import TrainingConfig
from imgtf.training.report import Report

from ..pipelines.conftest import SMALL_TOKENIZER, draw_images, run


class Memory(GeneralTracker):
    """Keeps the metrics in memory."""

    name = "memory"
    requires_logging_directory = False

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int | None, dict[str, Any]]] = []

    @property
    def tracker(self) -> Any:
        return self.rows

    def store_init_configuration(self, values: dict[str, Any]) -> None: ...

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        self.rows.append((step, values))


@pytest.mark.parametrize("active", [True, False])
def test_trackers_receive_the_metrics_of_the_log_from_the_main_process(active: bool, tmp_path: Path) -> None:
    memory = Memory()
    report = Report(
        "x", tmp_path / "log.jsonl", start=0, steps=4, batch_size=2, active=active, trackers=[memory]
    )
    report.train(2, {"loss": 1.0})
    report.evaluation(2, {"loss": 0.5}, is_best=True)
    report.close()
    if not active:
        assert memory.rows == []
        return
    assert [step for step, _ in memory.rows] == [2, 2]
    assert set(memory.rows[0][1]) == {"training/loss", "training/images_per_second"}
    assert memory.rows[1][1] == {"held_out/loss": 0.5}


def test_tensorboard_receives_the_metrics_and_the_settings(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    images = draw_images(tmp_path / "images")
    command = ["tokenizer", "train", "--data", images, "--model", tmp_path / "m", "--steps", "4"]
    assert run(*command, *SMALL_TOKENIZER, "--log-with", "tensorboard") == 0
    folder = tmp_path / "m" / "training" / "tokenizer"
    events = EventAccumulator(str(folder / "imgtf-tokenizer")).Reload()
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    expected = [(row["step"], row["loss"]) for row in rows if "loss" in row]
    found = [(event.step, event.value) for event in events.Scalars("training/loss")]
    assert found == [(step, pytest.approx(loss)) for step, loss in expected]
    assert [event.step for event in events.Scalars("held_out/psnr")] == [4]
    settings = next(folder.rglob("hparams.yml")).read_text()
    assert "codebook_size: 16" in settings
    assert "multipliers: 1,2" in settings


def test_a_missing_tracker_package_is_named_with_its_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator, "get_available_trackers", lambda: [])
    with pytest.raises(ConfigError, match="wandb: not installed; run pip install wandb"):
        check_trackers(TrainingConfig(log_with=("wandb",)))


def test_an_unknown_tracker_is_refused(tmp_path: Path, capsys: Any) -> None:
    assert run("tokenizer", "train", "--model", tmp_path / "m", "--log-with", "paper") == 2
    assert "'paper' is not one of 'aim'" in capsys.readouterr().err
