"""What is kept of a set of images while they stream by: enough for every distance, in bounded memory.

Statistics of parts of a set merge to those of the whole, in any order: several processes share the work.
Shapes: B batch, D features, K classes of the feature network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

KEPT = 10_000
"""Most images whose features are kept for KID, precision and recall: 80 MB at 2,048 features."""
SPLITS = 10
"""Parts of the samples over which the Inception Score is averaged."""


@dataclass(frozen=True)
class Output:
    """What a feature network computes of B images."""

    features: Tensor
    """(B, D)."""
    logits: Tensor | None = None
    """(B, K), of networks that are classifiers."""


class Moments:
    """Number, mean and scatter of features, in float64 (Chan et al. 1983: merging without cancellation)."""

    def __init__(self, features: Tensor) -> None:
        """The moments of features (B, D)."""
        x = features.detach().cpu().double()
        self.count = len(x)
        self.mean = x.mean(0) if len(x) else x.new_zeros(x.shape[1])  # (D,)
        centred = x - self.mean
        self.scatter = centred.T @ centred  # (D, D)

    @classmethod
    def restored(cls, count: int, mean: Tensor, scatter: Tensor) -> Self:
        """Moments that were computed before."""
        moments = cls(mean[None])
        moments.count, moments.mean, moments.scatter = count, mean, scatter
        return moments

    def merge(self, other: Moments) -> None:
        """Add the features of another set."""
        total = self.count + other.count
        if not total:
            return
        difference = other.mean - self.mean
        self.scatter += other.scatter + torch.outer(difference, difference) * (
            self.count * other.count / total
        )
        self.mean = self.mean + difference * (other.count / total)
        self.count = total

    @property
    def covariance(self) -> Tensor:
        """(D, D), unbiased; of more than one image."""
        return self.scatter / (self.count - 1)


class Kept:
    """The features of at most `limit` images of a set, chosen and ordered at random by their numbers.

    The same images are kept in any order of arrival and in any number of processes.
    """

    def __init__(self, limit: int = KEPT) -> None:
        self.limit = limit
        self.parts: list[tuple[np.ndarray, Tensor]] = []
        """Numbers (B,) and features (B, D) float32."""

    def add(self, features: Tensor, indices: Sequence[int] | np.ndarray) -> None:
        """Add features (B, D) of the images of these numbers."""
        self.parts.append((np.asarray(indices, dtype=np.int64), features.detach().cpu().float()))
        if sum(len(indices) for indices, _ in self.parts) > 2 * self.limit:
            self._drop()

    def merge(self, other: Kept) -> None:
        """Add the images of another part of the set."""
        self.parts += other.parts
        self._drop()

    def _drop(self) -> None:
        if self.parts:
            indices = np.concatenate([own for own, _ in self.parts])
            features = torch.cat([own for _, own in self.parts])
            chosen = np.argsort(shuffle_keys(indices), kind="stable")[: self.limit]
            self.parts = [(indices[chosen], features[torch.from_numpy(chosen)])]

    @property
    def features(self) -> Tensor:
        """(n, D) float32, in random order."""
        self._drop()
        return self.parts[0][1]

    @property
    def indices(self) -> np.ndarray:
        """(n,) int64: numbers of the images, in the same order."""
        self._drop()
        return self.parts[0][0]


class Probabilities:
    """Sums over the class probabilities (B, K) of images, for the Inception Score of `SPLITS` random parts."""

    def __init__(self, classes: int, splits: int = SPLITS) -> None:
        self.count = torch.zeros(splits, dtype=torch.float64)
        self.p = torch.zeros(splits, classes, dtype=torch.float64)
        self.p_log_p = torch.zeros(splits, dtype=torch.float64)

    def add(self, logits: Tensor, indices: Sequence[int] | np.ndarray) -> None:
        """Add logits (B, K) of the images of these numbers."""
        keys = shuffle_keys(np.asarray(indices, dtype=np.int64)) % np.uint64(len(self.count))
        part = torch.from_numpy(keys.astype(np.int64))
        log_p = logits.detach().cpu().double().log_softmax(1)
        self.count.index_add_(0, part, torch.ones(len(part), dtype=torch.float64))
        self.p.index_add_(0, part, log_p.exp())
        self.p_log_p.index_add_(0, part, (log_p.exp() * log_p).sum(1))

    def merge(self, other: Probabilities) -> None:
        """Add the images of another part of the set."""
        self.count += other.count
        self.p += other.p
        self.p_log_p += other.p_log_p


@dataclass
class Agreement:
    """How often a classifier sees the label that an image should have."""

    matched: int = 0
    labelled: int = 0

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Add logits (B, K) and labels (B,); -1 for images without a label."""
        known = labels >= 0
        self.matched += int((logits.argmax(1).cpu() == labels)[known].sum())
        self.labelled += int(known.sum())

    def merge(self, other: Agreement) -> None:
        """Add the images of another part of the set."""
        self.matched += other.matched
        self.labelled += other.labelled


class Statistics:
    """All of it, for one set of images and one feature network."""

    def __init__(self, keep: int = KEPT) -> None:
        self.moments: Moments | None = None
        self.kept = Kept(keep)
        self.probabilities: Probabilities | None = None
        self.agreement = Agreement()

    def add(self, output: Output, indices: Sequence[int] | np.ndarray, labels: Tensor | None = None) -> None:
        """Add what the network computed of the images of these numbers, and their labels (B,), -1 without one."""
        self._add_moments(Moments(output.features))
        self.kept.add(output.features, indices)
        if output.logits is None:
            return
        if self.probabilities is None:
            self.probabilities = Probabilities(output.logits.shape[1])
        self.probabilities.add(output.logits, indices)
        if labels is not None:
            self.agreement.add(output.logits, labels)

    def merge(self, other: Statistics) -> None:
        """Add the images of another part of the set."""
        if other.moments is not None:
            self._add_moments(other.moments)
        self.kept.merge(other.kept)
        self.agreement.merge(other.agreement)
        if self.probabilities is None:
            self.probabilities = other.probabilities
        elif other.probabilities is not None:
            self.probabilities.merge(other.probabilities)

    @property
    def count(self) -> int:
        """Number of images."""
        return self.moments.count if self.moments is not None else 0

    def _add_moments(self, moments: Moments) -> None:
        if self.moments is None:
            self.moments = Moments.restored(moments.count, moments.mean, moments.scatter.clone())
        else:
            self.moments.merge(moments)


def merged(parts: Sequence[Statistics]) -> Statistics:
    """The statistics of a set from those of its parts."""
    whole = Statistics(parts[0].kept.limit)
    for part in parts:
        whole.merge(part)
    return whole


def shuffle_keys(indices: np.ndarray) -> np.ndarray:
    """A pseudo-random number (n,) uint64 for each index: SplitMix64 (Steele, Lea and Flood 2014)."""
    z = indices.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
