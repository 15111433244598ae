"""Distances between images and their reconstructions as two sets, in the features of several networks.

Shapes: B batch, C channels, H, W image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..data.loader import Batch
from ..data.source import ImageSource
from ..evaluation.distances import frechet_distance
from ..evaluation.features import FeatureNetwork
from ..evaluation.figures import figures, flat
from ..evaluation.references import add_batch, real_labels
from ..evaluation.statistics import Moments, Statistics
from ..tokenizer.inception import Inception
from ..tokenizer.perceptual import Perceptual


class ReconstructionDistances:
    """Statistics of images and of reconstructions, batch by batch."""

    def __init__(
        self, networks: Sequence[FeatureNetwork], perceptual: Perceptual | None, inception: Inception | None
    ) -> None:
        """
        Args:
            networks: all figures in their features, under `NAME_features`.
            perceptual: the Frechet distance in its last layer, under `frechet_lpips_features`.
            inception: FID of the reconstructions at the tokenizer's image size, under `rfid`.
        """
        self.networks = networks
        self.real, self.own = ({network.name: Statistics() for network in networks} for _ in range(2))
        self.extracts: dict[str, Callable[[Tensor], Tensor]] = {}
        if perceptual is not None:
            self.extracts["frechet_lpips_features"] = perceptual.pooled_features
        if inception is not None:
            self.extracts["rfid"] = inception
        self.moments: dict[str, tuple[Moments, Moments]] = {}

    @torch.no_grad()
    def update(self, images: Tensor, reconstructions: Tensor, batch: Batch, source: ImageSource) -> None:
        """Add images (B, C, H, W) in [-1, 1] and their reconstructions; `batch` has their numbers and labels."""
        reconstructions = reconstructions.clamp(-1, 1)
        for name, extract in self.extracts.items():
            pair = Moments(extract(images)), Moments(extract(reconstructions))
            for whole, part in zip(self.moments.setdefault(name, pair), pair, strict=True):
                if whole is not part:
                    whole.merge(part)
        labels, numbers = real_labels(batch, source, self.networks), batch["index"].numpy()
        add_batch(self.real, self.networks, images, numbers, labels)
        add_batch(self.own, self.networks, reconstructions, numbers, labels)

    def compute(self) -> dict[str, Any]:
        """Return the distances by name, none where the images are fewer than two."""
        found: dict[str, Any] = {
            name: frechet_distance(*pair) for name, pair in self.moments.items() if pair[0].count > 1
        }
        for network in self.networks:
            own, real = self.own[network.name], self.real[network.name]
            if own.count > 1:
                found[f"{network.name}_features"] = flat(figures(network, own, real))
        return found
