"""Settings that fit a number of steps, where the user sets none: warm-up, evaluations, discriminator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..training.budget import OFTEN
from ..training.config import TrainingConfig
from .settings import Settings, load_presets

LEAST_WARMUP, LEAST_LOG = 10, 5
"""Steps, where the preset has more."""


@dataclass(frozen=True)
class Fit:
    """Settings that fit the images and the time."""

    settings: Settings
    steps: int
    """With --minutes a guess."""
    minutes: float | None = None
    """That these steps will take; None where nothing was measured."""


def fitted(settings: Settings, stage: str, steps: int, ten_minutes: int) -> dict[str, Any]:
    """Return what changes in the settings for a number of steps.

    Args:
        ten_minutes: steps of ten minutes.
    """
    training, preset = settings.part(TrainingConfig), load_presets(stage)[settings.preset]
    changes = {
        "warmup": min(training.warmup, max(LEAST_WARMUP, steps // 10)),
        "log_every": min(training.log_every, max(LEAST_LOG, steps // 20)),
    }
    if training.minutes is not None:  # the rest follows when the number of steps is decided
        return {name: value for name, value in changes.items() if name not in settings.explicit}
    changes |= {name: min(-(-steps // times), ten_minutes) for name, times in OFTEN.items()}
    for name in ("discriminator_start", "discriminator_ramp"):
        if name in preset:
            changes[name] = max(1, round(preset[name] * steps / preset["steps"]))
    return {name: value for name, value in changes.items() if name not in settings.explicit}
