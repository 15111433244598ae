"""Settings of `imgtf tokenizer tune-decoder`: those of the tokenizer's run, for fewer and smaller steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..options import check, to_dict
from ..tokenizer.recipe import DecoderRecipe
from ..training.config import TrainingConfig
from .files import run_file
from .settings import (
    AUTO,
    DECODER_CLASSES,
    INHERITED_CLASSES,
    LENGTHS,
    NOT_OF_DECODER,
    Settings,
    collect,
    option_names,
    read_toml,
)

STEPS = 0.2
"""Steps without --steps, relative to the tokenizer's run."""
RATE = 0.25
"""Peak learning rate without --lr, relative to the tokenizer's run: the weights are trained already."""
OF_MACHINE = ("device", "precision")
"""Settings that follow the machine, not the tokenizer's run."""
SCALED = (
    "warmup", "log_every", "eval_every", "preview_every", "save_every", "discriminator_start", "discriminator_ramp"
)  # fmt: skip
"""Numbers of steps that follow the length of the run."""


def decoder_settings(model: Path, given: Mapping[str, Any], config: Path | None = None) -> Settings:
    """Collect the settings of a decoder's run in a model folder. Later sources win: tokenizer's run, `config`, `given`.

    Raises:
        ConfigError: as for `collect`.
    """
    file = run_file(model, "tokenizer")
    settings = collect("tokenizer", DECODER_CLASSES, given, config, inherit=file, default=AUTO)
    values = _inherited(file, settings) | dict(settings.values)
    return dataclasses.replace(settings, values=values, no_options=frozenset({"preset", *NOT_OF_DECODER}))


def _inherited(file: Path, settings: Settings) -> dict[str, Any]:
    """The settings of the tokenizer's run, or the defaults, at the length and learning rate of this run."""
    run = read_toml(file) if file.exists() else {}
    own = Settings(AUTO, run, frozenset())
    before = to_dict(own.part(TrainingConfig)) | to_dict(own.part(DecoderRecipe))
    steps = settings.values.get("steps", max(1, round(STEPS * before["steps"])))
    steps = check(TrainingConfig, "steps", steps)
    ratio = steps / before["steps"]
    left_out = {name for cls in INHERITED_CLASSES for name in option_names(cls)}  # `collect` has read these
    left_out |= {*NOT_OF_DECODER, *LENGTHS, *OF_MACHINE}
    known = {name for cls in DECODER_CLASSES for name in option_names(cls)}
    kept = {name: value for name, value in run.items() if name in known - left_out}
    scaled = {name: min(before[name], max(1, round(ratio * before[name]))) for name in SCALED}
    return kept | scaled | {"steps": steps, "lr": RATE * before["lr"]}


def decoder_options() -> set[str]:
    """Return the names of the settings of a decoder's run."""
    known = {name for cls in DECODER_CLASSES for name in option_names(cls)}
    return known - set(NOT_OF_DECODER)
