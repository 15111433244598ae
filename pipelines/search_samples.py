"""The search for a model's sampling settings by how its samples look to a judge.

Candidates are compared with training images, the final check with the judge's reference, by default held-out images.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ..errors import ConfigError
from ..evaluation.distances import DistanceNames, frechet_distance, kernel_distance, scaled
from ..evaluation.statistics import KEPT, Statistics, merged
from ..prior.config import SamplingConfig
from .judge import Judge
from .real_conditions import RealConditions
from .request import MAX_SEED, sampling_settings
from .sample_sets import GeneratedSamples
from .sampling import Sampling
from .search import Search, SearchResult
from .search_space import SearchSpace

METRICS = ("kernel", "frechet")
SUBSETS = 20
"""Subsets of the kernel distance: the same for all candidates."""

Measured = dict[str, Statistics]


class SampleQuality:
    """The objective: distances of samples to real images, averaged over the judge's feature networks."""

    def __init__(
        self,
        sampling: Sampling,
        judge: Judge,
        metric: str = "kernel",
        seed: int = 0,
        batch_size: int | None = None,
    ) -> None:
        """
        Args:
            metric: `kernel`, the kernel distance (KID with Inception-v3), which few samples estimate without bias; or
                `frechet`, which with few samples is lower for samples of little variety.
        """
        if metric not in METRICS:
            raise ConfigError(f"metric must be {' or '.join(METRICS)}, got {metric!r}")
        self.sampling, self.judge, self.metric, self.seed = sampling, judge, metric, seed
        self.batch_size = batch_size
        self.names = {network.name: network.names for network in judge.networks}
        self.conditions = RealConditions(sampling, judge.reference.source)
        self.fresh_reference = judge.real_statistics
        self.training = judge.real(judge.train, KEPT)
        self.reference = judge.statistics_of(self.training)

    def about(self) -> dict[str, Any]:
        """What stands beside the distances."""
        return {
            "searched_against": self.training.describe(), "checked_against": self.judge.reference.describe(),
            "features": {own.name: own.describe() for own in self.judge.networks},
        }  # fmt: skip

    def measure(self, settings: SamplingConfig, first: int, n: int, fresh: bool = False) -> Measured:
        """The statistics of some samples."""
        given = {name: value for name, value in asdict(settings).items() if value is not None}
        samples = GeneratedSamples(
            self.sampling, self.conditions, n, seed=(self.seed + fresh) % (MAX_SEED + 1), first=first,
            batch_size=self.batch_size, settings=given,
        )  # fmt: skip
        return self.judge.measure(samples)

    def merge(self, parts: Sequence[Measured]) -> Measured:
        return {name: merged([part[name] for part in parts]) for name in parts[0]}

    def score(self, measured: Measured, start: Measured, fresh: bool = False) -> float:
        """The mean over networks of the distance relative to the start's."""
        own, others = self.describe(measured, fresh), self.describe(start, fresh)
        names = [name for name in own if name.endswith(self.metric)]
        return sum(own[name] / max(abs(others[name]), 1e-9) for name in names) / len(names)

    def describe(self, measured: Measured, fresh: bool = False) -> dict[str, float]:
        """Both distances in each network."""
        reference = self.fresh_reference if fresh else self.reference
        found: dict[str, float] = {}
        for name, own in measured.items():
            found |= _distances(name, own, reference[name], self.names[name])
        return found


def _distances(name: str, own: Statistics, reference: Statistics, names: DistanceNames) -> dict[str, float]:
    assert own.moments is not None
    assert reference.moments is not None
    features = scaled(own.kept.features, reference.kept.features, names)
    frechet = frechet_distance(own.moments, reference.moments)
    return {f"{name} kernel": kernel_distance(*features, SUBSETS).mean, f"{name} frechet": frechet}


def search_settings(
    objective: SampleQuality,
    minutes: float,
    *,
    settings: Mapping[str, Any] | None = None,
) -> SearchResult:
    """Find sampling settings that are better than the model's own within a budget.

    Args:
        settings: fields of `SamplingConfig` by name, in place of the model's own, to start from.
    """
    judge, config = objective.judge, objective.sampling.prior.config
    start = sampling_settings(config, **settings or {})

    def now() -> float:
        return float(judge.share.gather(time.monotonic())[0])  # all processes decide alike

    progress, judge.progress = judge.progress, None  # one bar for all candidates
    try:
        space = SearchSpace.of(config)
        return Search(objective, space, start, 60 * minutes, now, progress, objective.seed).run()
    finally:
        judge.progress = progress
