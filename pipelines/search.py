"""The search for sampling settings: successive halving, then steps from the best, then a check on fresh samples.

All candidates are sampled with the same random numbers, so that they differ by their settings only. What is measured
of samples merges, so a candidate that stays only gets more samples.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..prior.config import SamplingConfig
from .search_space import SearchSpace, differences

logger = logging.getLogger("imgtf")

FEWEST, CANDIDATES = 6, 18
"""Least and most settings of the first round, with the start."""
ROUNDS = 3
KEPT_SHARE = 1 / 3
"""Part of the candidates that stays after each round, in which the samples double."""
FINAL_SHARE = 0.3
"""Part of the budget for the check on fresh samples."""
PROBE, ENOUGH, LARGEST = 16, 100, 512
"""Samples to measure the speed by; bounds of the samples per candidate in the first round. With fewer than enough of
them chance decides: a short budget has fewer candidates instead."""
EXPECTED = 3 * CANDIDATES
"""Cost of the search without the check, in candidates of the first round; guided ones cost more than the start."""
MOST_CHECKED = 5000
"""Most fresh samples of each of the two settings."""


class Objective(Protocol):
    """What is measured of samples, and how it is scored."""

    def measure(self, settings: SamplingConfig, first: int, n: int, fresh: bool = False) -> Any:
        """Measure samples `first` to `first + n` of the search's seed, or of a fresh one."""

    def merge(self, parts: Sequence[Any]) -> Any:
        """What was measured of all parts together."""

    def score(self, measured: Any, start: Any, fresh: bool = False) -> float:
        """A number that is lower for better samples; `start` was measured of as many samples of the start."""

    def describe(self, measured: Any, fresh: bool = False) -> dict[str, float]:
        """The figures by name."""


@dataclass
class Trial:
    """A candidate and what was measured of it."""

    settings: SamplingConfig
    measured: Any = None
    images: int = 0
    seconds: float = 0.0
    score: float = float("inf")
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def seconds_per_image(self) -> float:
        """Time for one sample, measured."""
        return self.seconds / max(1, self.images)


@dataclass(frozen=True)
class Check:
    """The winner against the start on fresh samples."""

    images: int
    start: dict[str, float]
    winner: dict[str, float]
    better: bool
    """Whether the winner is better over all samples and in each half of them."""


@dataclass(frozen=True)
class SearchResult:
    """What a search found."""

    start: SamplingConfig
    best: SamplingConfig
    """The start where nothing is better."""
    trials: list[Trial]
    """All candidates, the best first."""
    check: Check | None
    """None where no candidate was better in the search."""
    needed: float = 0.0
    """Seconds of a budget that suffices for a first round."""

    @property
    def tried(self) -> int:
        """Number of settings that were measured besides the start."""
        return len(self.trials) - 1

    @property
    def improved(self) -> bool:
        """Whether settings were found that are better than the start."""
        return self.best != self.start

    def conclusion(self) -> str:
        """The result in a sentence."""
        if self.improved:
            assert self.check is not None
            return f"better than the default on {self.check.images} fresh samples: {differences(self.best, self.start)}"
        if not self.tried:
            minutes = math.ceil(self.needed / 60)
            return (
                f"the budget sufficed for {self.trials[0].images} samples of the default only, which is kept: "
                f"give --budget {minutes} or more"
            )
        if self.check is None:
            return "no settings are better than the default; it is kept"
        found = differences(self.trials[0].settings, self.start)
        images = self.check.images
        return (
            f"the best of the search ({found}) is not better on {images} fresh samples; the default is kept"
        )


class Search:
    """One search within a time budget."""

    def __init__(
        self, objective: Objective, space: SearchSpace, start: SamplingConfig, seconds: float,
        now: Callable[[], float], progress: Callable[[str, float, int], object] | None = None, seed: int = 0,
    ) -> None:  # fmt: skip
        """
        Args:
            seconds: the budget, from now on.
            now: the time in seconds; the same in every process.
        """
        self.objective, self.space, self.seed = objective, space, seed
        self.began, self.now, self.budget, self.progress = now(), now, seconds, progress
        self.told = 0.0
        self.start = Trial(space.canonical(start))
        self.trials: dict[SamplingConfig, Trial] = {self.start.settings: self.start}

    def run(self) -> SearchResult:
        """Search, and check what was found."""
        self._extend(self.start, PROBE)
        affordable = self._left() / max(self.start.seconds_per_image, 1e-9)
        n = int(min(LARGEST, max(ENOUGH, affordable / EXPECTED), max(PROBE, affordable / FEWEST / 2)))
        self._extend(self.start, n)
        candidates = int(min(CANDIDATES, max(FEWEST, affordable / n / 3)))
        best = self._climb(self._halve(n, candidates))
        return self._conclude(best)

    def _halve(self, n: int, candidates: int) -> Trial:
        """Successive halving (Jamieson and Talwalkar 2016): the best third of the candidates gets twice the samples."""
        first = self.space.first(self.start.settings, candidates, self.seed)
        pool = [self._trial(settings) for settings in first if settings != self.start.settings]
        best = self.start
        for number in range(ROUNDS):
            if not self._try(self.start, n * 2**number):
                break
            measured = [trial for trial in pool if self._try(trial, self.start.images)]
            if not measured or best not in (self.start, *measured):
                break
            ranked = sorted(measured, key=lambda trial: trial.score)
            best = min(self.start, ranked[0], key=lambda trial: trial.score)
            pool = ranked[: max(2, round(len(ranked) * KEPT_SHARE))]
            self._say(f"round {number + 1}", len(measured), best)
        return best

    def _climb(self, best: Trial) -> Trial:
        """Steps from the best settings, each half as large when none is better."""
        step = 1.0
        while step >= 0.25 and self._left() > 0:
            near = [self._trial(settings) for settings in self.space.neighbours(best.settings, step)]
            measured = [trial for trial in near if self._try(trial, self.start.images)]
            if not measured:
                break
            nearest = min([best, *measured], key=lambda trial: trial.score)
            if nearest is best:
                step /= 2
            best = nearest
            self._say(f"steps of {step:g}", len(measured), best)
        return best

    def _conclude(self, best: Trial) -> SearchResult:
        start = self.start.settings
        full = [trial for trial in self.trials.values() if trial.images]
        ranked = sorted(full, key=lambda trial: (-trial.images, trial.score))
        if best is self.start:
            return SearchResult(start, start, ranked, None, self._needed())
        check = self._check(best)
        ranked = [best, *(trial for trial in ranked if trial is not best)]
        return SearchResult(start, best.settings if check.better else start, ranked, check)

    def _check(self, best: Trial) -> Check:
        """Sample both settings with fresh random numbers, for the rest of the budget."""
        per_image = best.seconds_per_image + self.start.seconds_per_image
        left = self.budget - (self.now() - self.began)
        half = int(min(MOST_CHECKED, max(2 * PROBE, left / max(per_image, 1e-9)))) // 2
        halves = [
            [self.objective.measure(trial.settings, first, half, fresh=True) for first in (0, half)]
            for trial in (self.start, best)
        ]
        start, winner = (self.objective.merge(parts) for parts in halves)
        pairs = [(winner, start), *zip(halves[1], halves[0], strict=True)]
        scores = [[self.objective.score(one, ref, True) for one in (own, ref)] for own, ref in pairs]
        better = all(own < others for own, others in scores)
        describe = self.objective.describe
        return Check(2 * half, describe(start, True), describe(winner, True), better)

    def _trial(self, settings: SamplingConfig) -> Trial:
        return self.trials.setdefault(settings, Trial(settings))

    def _try(self, trial: Trial, images: int) -> bool:
        """Bring a candidate to as many samples as the start; False where the time does not suffice."""
        expected = (images - trial.images) * (trial.seconds_per_image or self.start.seconds_per_image)
        if trial.images < images and self._left() < expected:
            return False
        self._extend(trial, images)
        return True

    def _extend(self, trial: Trial, images: int) -> None:
        if trial.images < images:
            before = self.now()
            part = self.objective.measure(trial.settings, trial.images, images - trial.images)
            parts = [part] if trial.measured is None else [trial.measured, part]
            trial.measured, trial.images = self.objective.merge(parts), images
            trial.seconds += self.now() - before
            trial.figures = self.objective.describe(trial.measured)
        trial.score = self.objective.score(trial.measured, self.start.measured)
        self._report()

    def _needed(self) -> float:
        """Seconds of a budget for a first round with the fewest settings, where guidance doubles the time of each."""
        return self.start.seconds * (2 * FEWEST - 1) / (1 - FINAL_SHARE)

    def _left(self) -> float:
        """Seconds left for the search without the check."""
        return self.budget * (1 - FINAL_SHARE) - (self.now() - self.began)

    def _report(self) -> None:
        if self.progress is not None:
            done = min(self.budget, self.now() - self.began)
            self.progress("search", done - self.told, round(self.budget))
            self.told = done

    def _say(self, what: str, tried: int, best: Trial) -> None:
        found = differences(best.settings, self.start.settings)
        logger.info(
            "search, %s: %d settings with %d samples each; best so far: %s (score %.4g, default %.4g)", what, tried,
            best.images, "the default" if best is self.start else found, best.score, self.start.score,
        )  # fmt: skip
