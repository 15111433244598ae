"""The time of a run, and its settings on disk, which follow the decisions on its number of steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..options import MAX_INT
from ..prior.train import PriorStage
from ..tokenizer.train import TokenizerStage
from ..tokenizer.tune import DecoderStage
from ..training.budget import OFTEN, Budget
from ..training.config import TrainingConfig
from .fitted import Fit
from .settings import load_presets


def run_budget(
    stage: TokenizerStage | PriorStage, fit: Fit, file: Path, sections: Sequence[Any], started: float | None
) -> Budget:
    """Return the time of a run, whose decisions are written to the settings of the run.

    Args:
        file: settings of the run.
        sections: configurations of which they consist.
        started: when the time of the run began; now if None.
    """
    settings = fit.settings
    # A decoder's run has no preset: its settings start with those of the tokenizer's run.
    tuned = isinstance(stage, DecoderStage)
    preset = settings.values if tuned else load_presets(stage.name)[settings.preset]
    follows = "discriminator_start" in preset and "discriminator_start" not in settings.explicit
    if follows and stage.config.minutes is not None and isinstance(stage, TokenizerStage):
        recipe, steps = stage.recipe, preset["steps"]
        stage.keeps_ramp = "discriminator_ramp" in settings.explicit
        stage.start_and_ramp = recipe.discriminator_start / steps, recipe.discriminator_ramp / steps
        stage.move_discriminator(replace(recipe, discriminator_start=MAX_INT))

    def save() -> None:
        own: dict[type, Any] = {type(stage.recipe): stage.recipe, TrainingConfig: stage.config}
        if stage.accelerator.is_main_process:
            settings.save(file, [own.get(type(one), one) for one in sections])

    return Budget(
        stage.config,
        started,
        expected_steps=fit.steps,
        following=[name for name in OFTEN if name not in settings.explicit],
        eval_images=len(stage.held_out_set or ()),
        on_decision=save,
    )
