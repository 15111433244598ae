"""Sampling settings to try: moves of one setting at a time, random combinations, and neighbours of a setting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..prior.config import PriorConfig, SamplingConfig

SEARCHED = ("cfg_scale", "cfg_schedule", "cfg_power", "temperature", "top_k", "top_p")
SCALES = (1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 6.0)
SCHEDULES = ("constant", "linear", "cosine", "power-cosine")
TEMPERATURES = (1.0, 0.9, 0.8, 0.7, 1.1)
TOP_P = (1.0, 0.98, 0.95, 0.9, 0.8)
SHARES = (0.5, 0.25, 0.125, 0.0625)
"""top_k as shares of the codebook."""


@dataclass(frozen=True)
class SearchSpace:
    """The settings that a prior has."""

    guided: bool
    """Whether the prior has conditions, which guidance needs."""
    codes: int
    """V."""

    @classmethod
    def of(cls, config: PriorConfig) -> SearchSpace:
        """The space of a prior."""
        return cls(bool(config.conditions), config.codebook_size)

    def canonical(self, settings: SamplingConfig) -> SamplingConfig:
        """The same settings in one form: without guidance its schedule means nothing, and keeping all codes is 0."""
        plain = SamplingConfig()
        if not self.guided or settings.cfg_scale == 1:
            settings = replace(settings, cfg_scale=1.0, cfg_schedule=plain.cfg_schedule)
        if settings.cfg_schedule != "power-cosine":
            settings = replace(settings, cfg_power=plain.cfg_power)
        return replace(settings, top_k=0) if settings.top_k >= self.codes else settings

    def values(self) -> dict[str, tuple[Any, ...]]:
        """The values of each setting to begin with."""
        counts = [max(1, round(share * self.codes)) for share in SHARES]
        found: dict[str, tuple[Any, ...]] = {
            "temperature": TEMPERATURES, "top_k": (0, *dict.fromkeys(counts)), "top_p": TOP_P,
        }  # fmt: skip
        return {"cfg_scale": SCALES, "cfg_schedule": SCHEDULES, **found} if self.guided else found

    def first(self, start: SamplingConfig, count: int, seed: int = 0) -> list[SamplingConfig]:
        """`count` different settings: the start, moves of one setting, and random combinations in turn.

        There are fewer where the space has fewer.
        """
        single, random = self._single_moves(start), self._random(start, seed)
        chosen = {self.canonical(start): None}
        for i in range(20 * count):
            if len(chosen) == count:
                break
            move = next(single, None) if i % 2 == 0 else None
            chosen[self.canonical(move or next(random))] = None
        return list(chosen)

    def _single_moves(self, start: SamplingConfig) -> Iterator[SamplingConfig]:
        """One setting after the other in turn, the mild values first; a schedule needs a scale."""
        values = self.values()
        for i in range(max(map(len, values.values()))):
            for name, options in values.items():
                if i < len(options) and options[i] != getattr(start, name):
                    moved = replace(start, **{name: options[i]})
                    guided = name == "cfg_schedule" and moved.cfg_scale == 1
                    yield replace(moved, cfg_scale=3.0) if guided else moved

    def _random(self, start: SamplingConfig, seed: int) -> Iterator[SamplingConfig]:
        random = np.random.default_rng(seed)
        while True:
            drawn = {name: options[random.integers(len(options))] for name, options in self.values().items()}
            # A filter on top of a filter is rarely better: at most one of the two.
            off = "top_k" if random.random() < 0.5 else "top_p"
            yield replace(start, **drawn | {off: getattr(SamplingConfig(), off)})

    def neighbours(self, settings: SamplingConfig, step: float) -> list[SamplingConfig]:
        """Settings near these: each number a step up and down, and the other schedules of guidance.

        Args:
            step: 1 for large steps; half of it for half the distance.
        """
        moves: dict[str, list[Any]] = {
            name: [move(getattr(settings, name), sign * step) for sign in (1, -1)]
            for name, move in self._moves().items()
        }
        if self.guided and settings.cfg_scale != 1:
            moves["cfg_schedule"] = [*SCHEDULES]
            if settings.cfg_schedule == "power-cosine":
                power = settings.cfg_power
                moves["cfg_power"] = [round(power * 1.6**step, 3), round(power / 1.6**step, 3)]
        near = (replace(settings, **{name: value}) for name, values in moves.items() for value in values)
        found = dict.fromkeys(self.canonical(one) for one in near)
        return [one for one in found if one != self.canonical(settings)]

    def _moves(self) -> dict[str, Callable[[Any, float], Any]]:
        moves: dict[str, Callable[[Any, float], Any]] = {
            "temperature": lambda t, step: round(max(0.05, t * 1.15**step), 3),
            "top_k": self._fewer_or_more,
            "top_p": _more_of_the_mass,
        }
        scale = {"cfg_scale": lambda s, step: round(max(1.0, 1 + (max(s, 1.25) - 1) * 1.6**step), 3)}
        return scale | moves if self.guided else moves

    def _fewer_or_more(self, k: int, step: float) -> int:
        return max(1, round((k or self.codes) * 2**step))


def _more_of_the_mass(p: float, step: float) -> float:
    """Top-p with half of the dropped probability per step, or twice of it for steps below 0."""
    dropped = max(1 - p, 0.01) * 2**-step
    return 1.0 if dropped < 0.01 else round(max(0.05, 1 - dropped), 4)


def differences(settings: SamplingConfig, start: SamplingConfig) -> str:
    """What differs from the start, in words."""
    values = {name: getattr(settings, name) for name in SEARCHED}
    changed = {name: value for name, value in values.items() if value != getattr(start, name)}
    texts = [f"{name} {value if isinstance(value, str) else f'{value:g}'}" for name, value in changed.items()]
    return ", ".join(texts) or "none"
