"""Distances of two sets of images in features: Frechet, kernel distance, precision and recall; Inception Score.

Shapes: n, m images, D features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..runtime.optional import import_with_torchvision
from .statistics import Moments, Probabilities, Statistics

NEIGHBOURS = 3
"""k of precision and recall, as in the paper."""
BLOCK = 1024
"""Rows of a block of distances."""
KID_SUBSETS, KID_SIZE = 100, 1000
"""Subsets, and images in each: the sizes that published KIDs use."""


@dataclass(frozen=True)
class Estimate:
    """Mean and standard deviation over subsets."""

    mean: float
    std: float


def frechet_distance(own: Moments, others: Moments) -> float:
    """The Frechet distance of two Gaussians with the moments of features (Heusel et al. 2017, arXiv:1706.08500).

    It is the FID where the features are Inception-v3's. It is biased: it falls with the number of images. Both sets
    need more than one image.

    One covariance is R^T R, with as many rows in R as it has directions. Then the trace of the square root of the
    product with the other covariance C is that of R C R^T, which is symmetric.
    """
    first, second = own.covariance, others.covariance
    if others.count < own.count:  # the one of fewer directions
        first, second = second, first
    root = _root(first)
    shared = torch.linalg.eigvalsh(root @ second @ root.T).clamp_min(0).sqrt().sum()
    means = (own.mean - others.mean).square().sum()
    return max(0.0, float(means + first.trace() + second.trace() - 2 * shared))


def _root(covariance: Tensor) -> Tensor:
    """R (r, D) with R^T R = covariance (D, D), without the directions in which nothing varies."""
    values, vectors = torch.linalg.eigh(covariance)
    varies = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
    return values[varies].sqrt()[:, None] * vectors.T[varies]


def kernel_distance(
    features: Tensor, others: Tensor, subsets: int = KID_SUBSETS, size: int = KID_SIZE, seed: int = 0
) -> Estimate:
    """The kernel distance of features (n, D) and (m, D) (KID, Binkowski et al. 2018, arXiv:1801.01401).

    The mean over random subsets of an unbiased estimate of the squared maximum mean discrepancy, with a polynomial
    kernel of degree 3. It may be below 0. By torchmetrics.
    """
    kid = import_with_torchvision("torchmetrics.image.kid")
    size = min(size, len(features), len(others))
    random = torch.Generator().manual_seed(seed)

    def subset(x: Tensor) -> Tensor:
        return x[torch.randperm(len(x), generator=random)[:size]].double()

    values = torch.stack([kid.poly_mmd(subset(features), subset(others)) for _ in range(subsets)])
    return Estimate(float(values.mean()), float(values.std(correction=0)))


def precision_recall(features: Tensor, real: Tensor, k: int = NEIGHBOURS) -> tuple[float, float]:
    """Precision and recall (Kynkaanniemi et al. 2019, arXiv:1904.06991) of features (n, D) against real ones (m, D).

    Precision: the share of samples inside the real images' manifold, the balls around each real image that reach to
    its k-th nearest neighbour. Recall: the share of real images inside the samples' manifold. Both sets should have
    the same number of images, more than k.
    """
    precision = _share_inside(features, real, _radii(real, k))
    return precision, _share_inside(real, features, _radii(features, k))


def _radii(points: Tensor, k: int) -> Tensor:
    """Distance (n,) of each point (n, D) to its k-th nearest other."""
    return torch.cat([torch.cdist(block, points).kthvalue(k + 1).values for block in points.split(BLOCK)])


def _share_inside(points: Tensor, centres: Tensor, radii: Tensor) -> float:
    """Share of points (n, D) that are in a ball around any of the centres (m, D)."""
    inside = [(torch.cdist(block, centres) <= radii).any(1) for block in points.split(BLOCK)]
    return float(torch.cat(inside).double().mean())


def inception_score(probabilities: Probabilities) -> Estimate:
    """The Inception Score (Salimans et al. 2016, arXiv:1606.03498) over random parts of the samples."""
    used = probabilities.count > 0
    count, p_log_p = probabilities.count[used], probabilities.p_log_p[used]
    mean = probabilities.p[used] / count[:, None]  # (splits, K)
    entropy = torch.special.xlogy(mean, mean).sum(1)
    scores = (p_log_p / count - entropy).exp()
    return Estimate(float(scores.mean()), float(scores.std(correction=0)))


@dataclass(frozen=True)
class DistanceNames:
    """What the distances in a network's features are called; only those of Inception-v3 are FID and KID."""

    frechet: str = "frechet_distance"
    kernel: str = "kernel_distance"

    @property
    def is_inception(self) -> bool:
        """Whether these are the names of published figures."""
        return self == INCEPTION_NAMES


INCEPTION_NAMES = DistanceNames("fid", "kid")


def compare(own: Statistics, reference: Statistics, names: DistanceNames) -> dict[str, Any]:
    """All distances of a set to a reference, by name.

    Precision and recall need the same number of images in both sets: they and the kernel distance use the features
    that are kept.
    """
    assert own.moments is not None
    assert reference.moments is not None
    values: dict[str, Any] = {names.frechet: frechet_distance(own.moments, reference.moments)}
    return values | compare_kept(own.kept.features, reference.kept.features, names)


def compare_kept(features: Tensor, real: Tensor, names: DistanceNames) -> dict[str, Any]:
    """Kernel distance, precision and recall of features (n, D) against those of real images (m, D)."""
    values: dict[str, Any] = {}
    n = min(len(features), len(real))
    if n > 1:
        estimate = kernel_distance(*scaled(features, real, names))
        values |= {names.kernel: estimate.mean, f"{names.kernel}_std": estimate.std}
    if n > NEIGHBOURS:
        precision, recall = precision_recall(features[:n], real[:n])
        values |= {"precision": precision, "recall": recall}
    return values


def scaled(features: Tensor, real: Tensor, names: DistanceNames) -> tuple[Tensor, Tensor]:
    """Features (n, D) and (m, D) as the kernel distance takes them.

    The kernel is made for the size of Inception-v3's features. Those of other networks are divided by the root mean
    square of the real ones: else a few large ones decide.
    """
    if names.is_inception:
        return features, real
    scale = real.square().mean().sqrt().clamp_min(1e-12)
    return features / scale, real / scale


def floor(reference: Statistics, images: int, names: DistanceNames) -> dict[str, Any]:
    """The distances between two random parts of the reference: what a perfect set of samples would show.

    The first part has as many images as the samples, `images`, but at most half of the kept ones.
    """
    features = reference.kept.features
    size = min(images, len(features) // 2)
    if size < 2:
        return {}
    part, rest = features[:size], features[size:]
    values: dict[str, Any] = {"images": [len(part), len(rest)]}
    values[names.frechet] = frechet_distance(Moments(part), Moments(rest))
    return values | compare_kept(part, rest, names)
