"""Settings from presets, files and options."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from imgtf.errors import CheckpointError, ConfigError
from imgtf.pipelines.python import train_prior, train_tokenizer
from imgtf.pipelines.settings import collect, load_presets
from imgtf.prior.config import PriorConfig, SamplingConfig
from imgtf.tokenizer.config import TokenizerConfig
from imgtf.tokenizer.recipe import TokenizerRecipe
from imgtf.training.config import TrainingConfig

from .conftest import run

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


def test_a_resumed_run_keeps_its_preset(tmp_path: Path) -> None:
    file = tmp_path / "train.toml"
    file.write_text('preset = "small"\nsteps = 7\n')
    for given in ({}, {"preset": "auto"}, {"preset": "small"}):
        settings = collect("tokenizer", CLASSES, given, file)
        assert settings.preset == "small"
        assert settings == collect("tokenizer", CLASSES, {}, file)
    with pytest.raises(ConfigError, match=r"train\.toml: .* preset 'small', .* leave out the preset 'tiny'"):
        collect("tokenizer", CLASSES, {"preset": "tiny"}, file)


@pytest.mark.parametrize("stage", ["tokenizer", "prior"])
def test_a_resume_with_another_preset_is_one_line(stage: str, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / stage).mkdir()
    (tmp_path / stage / "train.toml").write_text('preset = "tiny"\n')
    message = f"{tmp_path / stage / 'train.toml'}: the run has the preset 'tiny'"
    for resume in (["--resume"], ["--resume-from", "3"]):
        assert run(stage, "train", "--model", tmp_path, *resume, "--preset", "medium") == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"Error: {message}")
    train = train_tokenizer if stage == "tokenizer" else train_prior
    with pytest.raises(ConfigError, match=re.escape(message)):
        train(tmp_path, preset="medium", resume=True)
    with pytest.raises(CheckpointError, match="holds no"):  # the next check
        train(tmp_path, preset="auto", resume=True)


def test_a_run_from_python_is_resumed_or_replaced_but_not_both(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="resume goes on with a run, and force replaces it"):
        train_tokenizer(tmp_path, resume=True, force=True)


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
