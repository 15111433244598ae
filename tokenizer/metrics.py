"""Metrics of reconstructions, by name: errors, similarity, use of the codebook.

A new metric is a function of images and reconstructions under `@per_image("NAME")`, or a class under
`@register("NAME")` where it needs more than the mean over images. `imgtf tokenizer eval` reports all of them.
Shapes: B batch, C channels, H, W image, V codebook size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from ..runtime.optional import import_with_torchvision
from .model import Reconstruction
from .perceptual import Perceptual

PerImage = Callable[[Tensor, Tensor], Tensor]
"""Images in [-1, 1] and reconstructions (B, C, H, W), not clamped -> a value per image (B,)."""


@dataclass(frozen=True)
class MetricInputs:
    """What metrics need besides the images."""

    codebook_size: int
    device: torch.device
    perceptual: Perceptual | None = None
    """Network of LPIPS."""


class Metric(ABC):
    """One or more values that are accumulated over batches."""

    @abstractmethod
    def __init__(self, inputs: MetricInputs) -> None:
        """Start empty."""

    @classmethod
    def available(cls, inputs: MetricInputs) -> bool:
        """Whether the inputs hold what the metric needs."""
        return True

    @abstractmethod
    def update(self, images: Tensor, result: Reconstruction) -> None:
        """Add a batch of images (B, C, H, W) in [-1, 1] and their reconstructions."""

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """Return the values by name, none where the images are too few."""


M = TypeVar("M", bound=type[Metric])
METRICS: dict[str, type[Metric]] = {}
"""Metrics by name, in the order of the report."""


def register(name: str) -> Callable[[M], M]:
    """Return a class decorator that adds a metric to `METRICS`."""

    def add(cls: M) -> M:
        METRICS[name] = cls
        return cls

    return add


def per_image(name: str) -> Callable[[PerImage], PerImage]:
    """Return a decorator that registers the mean of a function's values over all images."""

    def add(function: PerImage) -> PerImage:
        class Mean(MeanOverImages):
            def __init__(self, inputs: MetricInputs) -> None:
                super().__init__(name, function)

        METRICS[name] = Mean
        return function

    return add


class MeanOverImages(Metric):
    """Mean of a value per image."""

    def __init__(self, name: str, function: PerImage) -> None:
        self.name, self.function = name, function
        self.total, self.images = 0.0, 0

    def update(self, images: Tensor, result: Reconstruction) -> None:
        self.total += float(self.function(images, result.images).double().sum())
        self.images += len(images)

    def compute(self) -> dict[str, float]:
        return {self.name: self.total / self.images} if self.images else {}


class Metrics:
    """Several metrics over the same batches."""

    def __init__(self, inputs: MetricInputs, names: Iterable[str] | None = None) -> None:
        """Take the metrics of these names; by default all whose networks `inputs` holds."""
        chosen = METRICS if names is None else {name: METRICS[name] for name in names}
        self.metrics = [cls(inputs) for cls in chosen.values() if cls.available(inputs)]

    @torch.no_grad()
    def update(self, images: Tensor, result: Reconstruction) -> None:
        """Add a batch of images (B, C, H, W) in [-1, 1] and their reconstructions."""
        for metric in self.metrics:
            metric.update(images, result)

    def compute(self) -> dict[str, float]:
        """Return all values by name; without any batch an empty mapping."""
        return {name: value for metric in self.metrics for name, value in metric.compute().items()}


@per_image("l1")
def absolute_error(images: Tensor, reconstructions: Tensor) -> Tensor:
    """Return the mean absolute error of each image (B,)."""
    return (images - reconstructions).abs().flatten(1).mean(1)


@per_image("l2")
def squared_error(images: Tensor, reconstructions: Tensor) -> Tensor:
    """Return the mean squared error of each image (B,)."""
    return (images - reconstructions).square().flatten(1).mean(1)


@per_image("psnr")
def psnr(images: Tensor, reconstructions: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each image (B,) in dB; the range of images in [-1, 1] is 2."""
    error = (images - reconstructions.clamp(-1, 1)).double().square().flatten(1).mean(1)
    return (-10 * torch.log10(error.clamp_min(1e-10) / 4)).float()


@register("ssim")
class StructuralSimilarity(Metric):
    """SSIM (Wang et al. 2004) by torchmetrics."""

    def __init__(self, inputs: MetricInputs) -> None:
        torchmetrics = import_with_torchvision("torchmetrics.image")
        metric = torchmetrics.StructuralSimilarityIndexMeasure(data_range=(-1.0, 1.0))
        self.metric = metric.to(inputs.device)
        self.images = 0

    def update(self, images: Tensor, result: Reconstruction) -> None:
        self.metric.update(result.images.clamp(-1, 1), images)
        self.images += len(images)

    def compute(self) -> dict[str, float]:
        return {"ssim": float(self.metric.compute())} if self.images else {}


@register("lpips")
class PerceptualDistance(MeanOverImages):
    """LPIPS (arXiv:1801.03924)."""

    def __init__(self, inputs: MetricInputs) -> None:
        assert inputs.perceptual is not None
        super().__init__("lpips", inputs.perceptual)

    @classmethod
    def available(cls, inputs: MetricInputs) -> bool:
        return inputs.perceptual is not None


class CodeCounts:
    """Number of uses of each of V codes since the last reset."""

    def __init__(self, codebook_size: int) -> None:
        self.counts = torch.zeros(codebook_size, dtype=torch.long)

    def add(self, codes: Tensor) -> None:
        """Count codes of any shape."""
        self.counts += torch.bincount(codes.flatten(), minlength=len(self.counts)).cpu()

    def metrics(self) -> dict[str, float]:
        """Return `usage`, the fraction of codes in use, and `perplexity`, the exponential of the codes' entropy."""
        total = int(self.counts.sum())
        if not total:
            return {}
        p = self.counts.double() / total
        entropy = -torch.special.xlogy(p, p).sum()
        return {"usage": float((self.counts > 0).double().mean()), "perplexity": float(entropy.exp())}

    def reset(self) -> None:
        """Set all counts to zero."""
        self.counts.zero_()


@register("codes")
class CodeUsage(Metric):
    """Use of the codebook: `usage` and `perplexity`."""

    def __init__(self, inputs: MetricInputs) -> None:
        self.counts = CodeCounts(inputs.codebook_size)

    def update(self, images: Tensor, result: Reconstruction) -> None:
        self.counts.add(result.codes)

    def compute(self) -> dict[str, float]:
        return self.counts.metrics()
