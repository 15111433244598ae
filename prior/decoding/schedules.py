"""What changes from step to step of sampling: codes per step, guidance scale, temperature.

A fraction is the part of the grid that is sampled at the start of a step: 0 at the first code, 1 at the last.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..config import PriorConfig, SamplingConfig

MASKED_STEPS = 12
"""Default number of steps of a masked prior; benchmarks/RESULTS.md compares 4, 8 and 12."""


@dataclass(frozen=True)
class Step:
    """One step of sampling."""

    start: int
    """Codes known before it."""
    size: int
    """Codes that it samples."""
    guidance: float
    """Scale of classifier-free guidance; 1 is none."""
    temperature: float


def make_schedule(config: PriorConfig, settings: SamplingConfig, known: int, tokens: int) -> list[Step]:
    """Return the steps that sample a grid of `tokens` codes, of which some are known."""
    count = tokens if config.objective == "raster" else step_count(config, settings)
    steps, start = [], known
    for size in group_sizes(tokens - known, count, settings.step_schedule):
        fraction = start / max(1, tokens - 1)
        steps.append(
            Step(start, size, guidance_scale(settings, fraction), temperature_at(settings, fraction))
        )
        start += size
    return steps


def step_count(config: PriorConfig, settings: SamplingConfig) -> int:
    """Return the number of steps per image."""
    if config.objective == "raster":
        return config.tokens
    default = MASKED_STEPS if config.objective == "masked" else config.tokens
    return min(settings.sampling_steps or default, config.tokens)


def group_sizes(codes: int, steps: int, schedule: str) -> list[int]:
    """Return how many of `codes` each step samples: at least one, and no more steps than codes.

    even, or cosine: MaskGIT leaves the fraction cos(pi / 2 r) of the codes masked after the fraction r of the steps.
    """
    steps = min(steps, codes)
    if steps == 0:
        return []
    left = [round(codes * _fraction_left(schedule, (i + 1) / steps)) for i in range(steps)]
    left[-1] = 0
    for i in reversed(range(steps - 1)):  # every later step still has a code to sample
        left[i] = max(left[i], left[i + 1] + 1)
    for i in range(steps):  # and so has every earlier one
        left[i] = min(left[i], codes - i - 1)
    return [before - after for before, after in zip([codes, *left[:-1]], left, strict=True)]


def _fraction_left(schedule: str, fraction: float) -> float:
    return 1 - fraction if schedule == "even" else math.cos(math.pi / 2 * fraction)


def guidance_scale(settings: SamplingConfig, fraction: float) -> float:
    """Return the guidance scale at a fraction of the grid (power-cosine: RAR, arXiv:2411.00776)."""
    rise = {
        "constant": 1.0,
        "linear": fraction,
        "cosine": (1 - math.cos(math.pi * fraction)) / 2,
        "power-cosine": (1 - math.cos(math.pi * fraction**settings.cfg_power)) / 2,
    }[settings.cfg_schedule]
    return 1 + (settings.cfg_scale - 1) * rise


def temperature_at(settings: SamplingConfig, fraction: float) -> float:
    """Return the temperature at a fraction of the grid."""
    end = settings.temperature if settings.final_temperature is None else settings.final_temperature
    return settings.temperature + (end - settings.temperature) * min(1.0, fraction)
