"""Schedule, moving average, options, settings layers, signals."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

from imgtf.errors import ConfigError
from imgtf.options import build, check, to_dict
from imgtf.pipelines.settings import collect, load_presets
from imgtf.prior.config import PriorConfig, SamplingConfig
from imgtf.tokenizer.config import TokenizerConfig
from imgtf.tokenizer.recipe import TokenizerRecipe
from imgtf.training.config import TrainingConfig
from imgtf.training.ema import EMA
from imgtf.training.interrupt import StopRequest
from imgtf.training.schedule import learning_rate


def test_the_learning_rate_rises_and_falls() -> None:
    config = TrainingConfig(steps=100, warmup=10, lr=1.0, final_lr_ratio=0.1)
    rates = [learning_rate(step, config) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == 1.0
    assert rates[55] == pytest.approx(0.55)
    assert sorted(rates[10:], reverse=True) == rates[10:]
    assert 0.1 <= rates[-1] < 0.101
    assert learning_rate(500, config) == pytest.approx(0.1)


def test_the_average_starts_short_and_grows_long() -> None:
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


def test_averaged_weights_stand_in_only_within_the_block() -> None:
    model = torch.nn.Linear(2, 2)
    raw = model.weight.detach().clone()
    ema = EMA(model, decay=0.5)
    ema.average["weight"].fill_(7.0)
    with ema.applied():
        assert (model.weight == 7).all()
    assert torch.equal(model.weight, raw)
    assert (ema.average["weight"] == 7).all()


def test_the_first_signal_asks_and_the_second_interrupts() -> None:
    before = signal.getsignal(signal.SIGINT)
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_configuration_survives_its_dict() -> None:
    config = PriorConfig(grid=(2, 3), codebook_size=8, class_names=("a",), sampling=SamplingConfig(top_k=4))
    assert build(PriorConfig, to_dict(config)) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stps": 3}, "unknown key stps"),
        ({"steps": "3"}, "steps must be int"),
        ({"steps": True}, "steps must be int"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"beta1": 1.5}, "beta1 must be at most 1"),
        ({"precision": "fp64"}, "one of auto, fp32, bf16, fp16"),
        ({"batch_size": 10, "gradient_accumulation_steps": 3}, "batch_size 10"),
    ],
)
def test_wrong_settings_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(TrainingConfig, values)


def test_lists_and_whole_numbers_are_converted() -> None:
    assert check(TokenizerConfig, "multipliers", [1, 2]) == (1, 2)
    assert check(TrainingConfig, "lr", 1) == 1.0
    with pytest.raises(ConfigError, match="list of int"):
        check(TokenizerConfig, "multipliers", "1,2")


CLASSES = (TokenizerConfig, TokenizerRecipe, TrainingConfig)


def test_the_command_line_beats_the_file_beats_the_preset(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('preset = "small"\nsteps = 7\nlr = 0.5\n')
    settings = collect("tokenizer", CLASSES, {"lr": 0.25}, file)
    training = settings.part(TrainingConfig)
    assert settings.preset == "small"
    assert (training.steps, training.lr) == (7, 0.25)
    assert settings.part(TokenizerConfig).image_size == load_presets("tokenizer")["small"]["image_size"]
    assert settings.explicit == {"steps", "lr"}


def test_saved_settings_give_the_same_run(tmp_path: Path) -> None:
    settings = collect("tokenizer", CLASSES, {"multipliers": [1, 2, 2], "steps": 5})
    parts = [settings.part(cls) for cls in CLASSES]
    settings.save(tmp_path / "train.toml", parts)
    again = collect("tokenizer", CLASSES, {}, tmp_path / "train.toml")
    assert [again.part(cls) for cls in CLASSES] == parts


@pytest.mark.parametrize(
    ("text", "message"),
    [("stps = 3", "unknown key stps"), ("steps = [", "TOML"), ('preset = "huge"', "no preset 'huge'")],
)
def test_wrong_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "run.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        collect("tokenizer", CLASSES, {}, file)


@pytest.mark.parametrize("name", ["tiny", "small", "base"])
def test_every_preset_is_a_valid_configuration(name: str) -> None:
    collect("tokenizer", CLASSES, {"preset": name}).part(TokenizerConfig)
    collect("tokenizer", CLASSES, {"preset": name}).part(TrainingConfig)
    prior = collect("prior", (PriorConfig, SamplingConfig, TrainingConfig), {"preset": name})
    prior.part(PriorConfig, grid=(4, 4), codebook_size=16)
    prior.part(TrainingConfig)
    for room in ("tokenizer", "prior"):
        assert {"about", "expect"} <= set(load_presets(room)[name])
