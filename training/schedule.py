"""Learning rate schedule, a function of the step."""

from __future__ import annotations

import math

from .config import TrainingConfig


def learning_rate(step: int, config: TrainingConfig) -> float:
    """Return the learning rate of a step (from 0): linear warm-up, then cosine decay to `final_lr_ratio * lr`."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    progress = min(1.0, (step - config.warmup) / max(1, config.steps - config.warmup))
    ratio = config.final_lr_ratio + (1 - config.final_lr_ratio) * (1 + math.cos(math.pi * progress)) / 2
    return config.lr * ratio
