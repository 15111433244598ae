"""Compiled training: the same updates under the same names, and a clear error where it does not work."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import nn

from imgtf.errors import ConfigError
from imgtf.runtime.compiler import check_compiler, compiled
from imgtf.training.accelerator import make_accelerator
from imgtf.training.config import TrainingConfig
from imgtf.training.stage import Stage, WrappedModel

needs_compiler = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler"
)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(x).relu())


class SmallStage(Stage):
    """The model as a stage: only what `prepare` and `update` need."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = Small()  # type: ignore[assignment]

    def eager(self) -> list[nn.Module]:
        return [self.model.last]  # type: ignore[list-item]

    def train_batches(self, start_step): ...
    def step(self, batch): ...
    def evaluate(self): ...
    def preview(self, path): ...


@needs_compiler
def test_compiled_training_makes_the_same_updates_under_the_same_names() -> None:
    x = torch.linspace(-1, 1, 24).view(6, 4)
    states = []
    for compile in (False, True):
        config = TrainingConfig(compile=compile, precision="fp32", device="cpu")
        stage = SmallStage()
        stage.prepare(make_accelerator(config), config)
        for _ in range(2):
            stage.update(stage.network(x).square().mean())
        states.append(stage.model.state_dict())
        assert (stage.network.compute is None) is not compile
        assert [n.removeprefix("model.") for n, _ in stage.network.named_parameters()] == list(states[-1])
    assert list(states[0]) == list(states[1]) == ["first.weight", "first.bias", "last.weight", "last.bias"]
    for a, b in zip(states[0].values(), states[1].values(), strict=True):
        torch.testing.assert_close(a, b)


@needs_compiler
def test_calls_of_the_model_itself_stay_eager() -> None:
    calls: list[str] = []
    model = Small()
    model.first.register_forward_hook(lambda *_: calls.append("eager"))
    wrapped = WrappedModel(model)
    wrapped.compute = compiled(model, [model.last])
    x = torch.ones(2, 4)
    torch.testing.assert_close(wrapped(x), model(x))
    assert model(x).grad_fn is not None
    assert type(model.last(x).grad_fn).__name__ == "AddmmBackward0"


def test_a_failing_compiler_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(function):
        def call(*_):
            raise RuntimeError("\nInvalidCxxCompiler: No working C++ compiler found\nmore\nmore")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(ConfigError, match=r"No working C\+\+ compiler found.*--compile") as refused:
        check_compiler(torch.device("cpu"))
    assert "\n" not in str(refused.value)


def test_a_missing_compiler_is_an_error_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(device: torch.device) -> None:
        raise ConfigError("compile: no")

    monkeypatch.setattr("imgtf.training.accelerator.check_compiler", missing)
    with pytest.raises(ConfigError, match="compile: no"):
        make_accelerator(TrainingConfig(compile=True, device="cpu"))
