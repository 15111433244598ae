"""Settings from presets, files and options."""

from __future__ import annotations

from pathlib import Path

import pytest

from imgtf.errors import ConfigError
from imgtf.pipelines.settings import collect, load_presets
from imgtf.prior.config import PriorConfig, SamplingConfig
from imgtf.tokenizer.config import TokenizerConfig
from imgtf.tokenizer.recipe import TokenizerRecipe
from imgtf.training.config import TrainingConfig

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
