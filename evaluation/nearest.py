"""Memorisation: is a sample nearer to a training image than held-out images are?

The training images stream by once; what is held are the samples and held-out images ("queries"), at most `QUERIES` of
each. Each query is compared with every training image and its mirror image, in features and in pixels.
Shapes: B batch, Q queries, D features or pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .features import FeatureNetwork
from .references import ALONE, Progress, RealImages, Share
from .statistics import Kept

QUERIES = 10_000
"""Most samples that are compared, and most held-out images."""
PIXELS = 16
"""Longer side of the reduced images that are compared in pixels."""
QUANTILE = 0.01
"""A sample is near a training image where it is nearer than this share of the held-out images."""
WORST = 8
"""Pairs that are shown."""
SPACES = ("features", "pixels")


class Queries:
    """Images to find neighbours of, with their mirror images, in both spaces; mergeable."""

    def __init__(self, network: FeatureNetwork, limit: int = QUERIES) -> None:
        self.network = network
        self.spaces = {name: Kept(limit) for name in SPACES}

    def add(self, images: Tensor, indices: Any) -> None:
        """Add images (B, C, H, W) in [-1, 1] of these numbers."""
        both = [embed(self.network, view) for view in (images, images.flip(-1))]
        for name, own in self.spaces.items():
            own.add(torch.cat([view[name] for view in both], 1), indices)

    def merged(self, share: Share) -> Queries:
        """Those of all processes."""
        whole = Queries(self.network, next(iter(self.spaces.values())).limit)
        for part in share.gather(self.spaces):
            for name, own in part.items():
                whole.spaces[name].merge(own)
        return whole

    def __len__(self) -> int:
        return len(self.spaces["pixels"].indices)

    @property
    def indices(self) -> np.ndarray:
        """(Q,): numbers of the images."""
        return self.spaces["pixels"].indices

    def views(self, space: str) -> tuple[Tensor, Tensor]:
        """The images (Q, D) and their mirror images (Q, D)."""
        plain, mirrored = self.spaces[space].features.chunk(2, dim=1)
        return plain, mirrored


def embed(network: FeatureNetwork, images: Tensor) -> dict[str, Tensor]:
    """Images (B, C, H, W) in both spaces, (B, D) each."""
    return {"features": network(images).features, "pixels": reduced(images).flatten(1)}


def reduced(images: Tensor) -> Tensor:
    """Images (B, C, H, W) averaged over areas to a longer side of at most `PIXELS`."""
    scale = PIXELS / max(images.shape[2:])
    if scale >= 1:
        return images
    size = [max(1, round(side * scale)) for side in images.shape[2:]]
    return F.interpolate(images, size, mode="area")


@dataclass
class Nearest:
    """The nearest training image of each of Q queries so far."""

    distance: Tensor
    """(Q,), squared until all images were seen."""
    image: Tensor
    """(Q,) int64: number of the training image."""

    @classmethod
    def none(cls, queries: int) -> Nearest:
        """No neighbour yet."""
        return cls(torch.full((queries,), torch.inf), torch.full((queries,), -1))

    def update(self, views: tuple[Tensor, Tensor], training: Tensor, numbers: Tensor) -> None:
        """Compare both views (Q, D) with training images (B, D) of these numbers (B,)."""
        for view in views:
            squared = view.square().sum(1, keepdim=True) + training.square().sum(1) - 2 * view @ training.T
            self._take(*squared.min(1), numbers)

    def _take(self, distance: Tensor, column: Tensor, numbers: Tensor) -> None:
        nearer = distance < self.distance
        self.distance = torch.where(nearer, distance, self.distance)
        self.image = torch.where(nearer, numbers[column], self.image)

    def merge(self, other: Nearest) -> None:
        """Add the training images of another process."""
        nearer = other.distance < self.distance
        self.distance = torch.where(nearer, other.distance, self.distance)
        self.image = torch.where(nearer, other.image, self.image)

    def distances(self) -> Tensor:
        """(Q,), no longer squared."""
        return self.distance.clamp_min(0).sqrt()


def find_nearest(
    queries: list[Queries], training: RealImages, share: Share = ALONE, progress: Progress | None = None
) -> list[dict[str, Nearest]]:
    """The nearest training image of every query, for each set of queries, by space."""
    views = [{space: own.views(space) for space in SPACES} for own in queries]
    found = [{space: Nearest.none(len(own)) for space in SPACES} for own in queries]
    for batch in training.batches(share.rank, share.world):
        embedded = embed(queries[0].network, batch["image"])
        for own, nearest in zip(views, found, strict=True):
            for space in SPACES:
                nearest[space].update(own[space], embedded[space].cpu().float(), batch["index"])
        if progress is not None:
            progress("nearest training images", len(batch["index"]) * share.world, len(training))
    first, *others = share.gather(found)
    for part in others:
        for own, other in zip(first, part, strict=True):
            for space in SPACES:
                own[space].merge(other[space])
    return list(first)


@dataclass(frozen=True)
class Pair:
    """A sample and its nearest training image."""

    sample: int
    training: int
    space: str
    """In which they are so near."""
    distance: float
    relative: float
    """Distance relative to the threshold: below 1 they are near."""


@dataclass(frozen=True)
class Memorisation:
    """What the neighbours of samples and of held-out images say."""

    spaces: dict[str, dict[str, float]]
    """By space: ratio of the median distances, threshold, share of samples below it."""
    compared: int
    """Samples that were compared."""
    near: np.ndarray
    """(k,) int64: numbers of the samples that are near a training image in either space."""
    pairs: list[Pair] = field(default_factory=list)
    """The `WORST` samples with their nearest training images, the nearest first."""


def memorisation(samples: Queries, held_out: Queries, nearest: list[dict[str, Nearest]]) -> Memorisation:
    """Compare the neighbours of samples with those of held-out images; `nearest` is what `find_nearest` gave."""
    spaces, relative = {}, []
    for space in SPACES:
        own, real = (found[space].distances() for found in nearest)
        # Copies of training images among the held-out ones may make the threshold 0; then only copies are near.
        threshold = max(float(real.quantile(QUANTILE)), 1e-6 * float(real.median()), 1e-12)
        relative.append(own / threshold)
        spaces[space] = _summary(own, real, threshold)
    least, which = torch.stack(relative).min(0)  # (n,) each
    near = samples.indices[(least < 1).numpy()]
    worst = least.argsort()[:WORST].tolist()
    return Memorisation(
        spaces,
        len(samples),
        near,
        [_pair(samples, nearest[0], i, int(which[i]), float(least[i])) for i in worst],
    )


def _summary(own: Tensor, real: Tensor, threshold: float) -> dict[str, float]:
    median, median_held_out = float(own.median()), float(real.median())
    return {
        "ratio": median / median_held_out if median_held_out else float("nan"),
        "median": median,
        "median_held_out": median_held_out,
        "threshold": threshold,
        "share_near": float((own < threshold).double().mean()),
    }


def _pair(samples: Queries, nearest: dict[str, Nearest], i: int, which: int, relative: float) -> Pair:
    space = SPACES[which]
    found = nearest[space]
    distance = float(found.distance[i].clamp_min(0).sqrt())
    return Pair(int(samples.indices[i]), int(found.image[i]), space, distance, relative)
