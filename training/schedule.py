"""How far a run is, and its learning rate: functions of the step and the settings alone.

The number of steps of a run with `--minutes` is decided while it trains, and may change later. `step_plan` lists the
decisions as STEP:STEPS. The progress is the same before a decision whatever was decided, and has no jump at it. So the
same run, repeated with its final settings, takes every step at the same learning rate.
"""

from __future__ import annotations

from itertools import pairwise

from .config import TrainingConfig
from .plan import parse_plan


def learning_rate(step: int, config: TrainingConfig) -> float:
    """Return the learning rate of a step (from 0): linear warm-up, then linear decay to `final_lr_ratio * lr`."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    done = progress(step, config, config.warmup)
    return config.lr * (1 - (1 - config.final_lr_ratio) * done)


def progress(step: int, config: TrainingConfig, begin: int = 0) -> float:
    """Return which fraction of the steps from `begin` to the last one is done at a step, from 0 to 1.

    It is 0 until the number of steps is decided, and then rises in a straight line from one decision to the next.
    """
    if config.minutes is not None:
        return 0.0
    done, plan = 0.0, parse_plan(config.step_plan) or ((0, config.steps),)
    for (decided, steps), (following, _) in pairwise([*plan, (step, 0)]):
        start = max(begin, decided)
        if step <= start:
            break
        end = min(step, max(begin, following))
        done += (1 - done) * min(1.0, (end - start) / max(1, steps - start))
    return done
