"""Accelerate set up from the training settings."""

from __future__ import annotations

import pytest
import torch

from imgtf.errors import ConfigError
from imgtf.training import accelerator
from imgtf.training.accelerator import make_accelerator
from imgtf.training.config import TrainingConfig


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator, "pick_device", torch.device)


@pytest.mark.parametrize(("precision", "expected"), [("fp32", "no"), ("bf16", "bf16")])
def test_device_and_precision_are_those_of_each_run(precision: str, expected: str) -> None:
    made = make_accelerator(TrainingConfig(device="cpu", precision=precision))
    assert (made.device.type, made.mixed_precision) == ("cpu", expected)


@pytest.mark.usefixtures("two_gpus")
def test_a_single_process_trains_on_the_gpu_of_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert accelerator._training_device("cuda:1") == torch.device("cuda", 1)
    assert accelerator._training_device("cuda") == torch.device("cuda")
    assert chosen == [torch.device("cuda", 1)]


@pytest.mark.usefixtures("two_gpus")
def test_several_processes_cannot_share_a_numbered_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        ConfigError, match="device cuda:1: each of several processes has its own GPU; use cuda"
    ):
        make_accelerator(TrainingConfig(device="cuda:1"))


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(ConfigError, match="device gpu: not available"):
        make_accelerator(TrainingConfig(device="gpu"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_run_on_the_cpu_does_not_keep_later_runs_from_the_gpu() -> None:
    devices = [
        make_accelerator(TrainingConfig(device=d)).device.type for d in ("cpu", "cuda:0", "cpu", "auto")
    ]
    assert devices == ["cpu", "cuda", "cpu", "cuda"]
