"""The judge of samples: real images, feature networks, and the work shared by several processes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ..data.config import DataConfig
from ..data.source import ImageSource, open_source
from ..errors import ConfigError, ImgtfError
from ..evaluation.cache import cache_folder
from ..evaluation.classifier import ClassifierData
from ..evaluation.features import FeatureNetwork, FeatureRequest, Features, load_features
from ..evaluation.figures import figures
from ..evaluation.nearest import QUERIES, Memorisation, Queries, find_nearest, memorisation
from ..evaluation.references import (
    Progress,
    RealImages,
    Share,
    add_batch,
    class_numbers,
    reference_statistics,
)
from ..evaluation.statistics import Statistics, merged
from .processes import Processes
from .sample_sets import SampleBatch, SampleSet

logger = logging.getLogger("imgtf")

REFERENCES = ("held-out", "train")


@dataclass(frozen=True)
class JudgeOptions:
    """How samples are judged."""

    features: Features = "auto"
    reference: str = "held-out"
    """Which real images samples are compared with: `held-out` or `train`."""
    cache: Path | None = None
    """Folder of classifiers and reference statistics; None for the user's cache folder."""
    inception_file: Path | None = None
    """Weights of Inception-v3; None for those in torch's cache."""

    def __post_init__(self) -> None:
        if self.reference not in REFERENCES:
            raise ConfigError(f"reference must be {' or '.join(REFERENCES)}, got {self.reference!r}")


def feature_networks(
    sources: tuple[ImageSource, ImageSource],
    data: DataConfig,
    size: tuple[int, int],
    channels: int,
    device: torch.device,
    options: JudgeOptions,
    progress: Progress | None = None,
) -> list[FeatureNetwork]:
    """The feature networks of images (channels, H, W); a classifier is one of the training images of `sources`.

    Raises:
        ConfigError, CheckpointError, DataError: as `load_features`.
    """

    def report(done: float, total: int) -> None:
        if progress is not None:
            progress("training the classifier", done, total)

    given = ClassifierData(*sources, data, size, channels)
    request = FeatureRequest(device, options.cache or cache_folder(), given, options.inception_file, report)
    return load_features(options.features, request)


class Judge:
    """Compares samples of one size with the real images of a data set."""

    def __init__(
        self,
        data: DataConfig,
        size: tuple[int, int],
        channels: int,
        device: torch.device,
        options: JudgeOptions | None = None,
        processes: Processes | None = None,
        progress: Progress | None = None,
    ) -> None:
        """
        Args:
            size: (H, W) of the samples.

        Raises:
            ConfigError: for an unknown feature network or reference.
            CheckpointError: the weights of a feature network cannot be had.
            DataError: the data set cannot be read, or has no images for the reference.
        """
        self.options = options or JudgeOptions()
        self.processes = processes or Processes()
        self.share = Share(self.processes.rank, self.processes.world, self.processes.gather)
        self.progress = progress
        self.train, self.held_out = open_source(data)
        self.data, self.size, self.channels = data, size, channels
        self.cache = self.options.cache or cache_folder()
        self.reference = self.real(self.train if self.options.reference == "train" else self.held_out)
        self.networks = self._networks(device)

    def real(self, source: ImageSource, limit: int | None = None) -> RealImages:
        """The images of a source at the samples' size. Raises DataError for fewer than two."""
        return RealImages(source, self.data, self.size, self.channels, limit)

    def _networks(self, device: torch.device) -> list[FeatureNetwork]:
        """The feature networks. The first process trains or downloads, the others find the result."""

        def load() -> list[FeatureNetwork]:
            sources = self.train, self.held_out
            return feature_networks(
                sources, self.data, self.size, self.channels, device, self.options, self.progress
            )

        networks = load() if self.processes.is_first else []
        self.share.gather(None)
        networks = networks or load()
        if len(set(self.share.gather(tuple((own.name, own.sha256) for own in networks)))) > 1:
            raise ImgtfError("the processes have different feature networks: give them one --cache folder")
        return networks

    @cached_property
    def real_statistics(self) -> dict[str, Statistics]:
        """The reference in each network, from the cache or computed."""
        return self.statistics_of(self.reference)

    def statistics_of(self, images: RealImages) -> dict[str, Statistics]:
        """The statistics of real images in each network, from the cache or computed."""
        return reference_statistics(images, self.networks, self.cache, self.share, self.progress)

    def measure(self, samples: SampleSet, queries: Queries | None = None) -> dict[str, Statistics]:
        """The statistics of samples in each network, over all processes; `queries` gets the samples too."""
        own = {network.name: Statistics() for network in self.networks}
        for batch in samples.batches(self.share, self.progress):
            add_batch(own, self.networks, batch.pixels, batch.indices, self._labels(batch))
            if queries is not None:
                queries.add(batch.pixels, batch.indices)
        parts = self.share.gather(own)
        return {name: merged([part[name] for part in parts]) for name in own}

    def _labels(self, batch: SampleBatch) -> dict[str, torch.Tensor]:
        return {own.name: class_numbers(batch.labels, own) for own in self.networks if own.class_names}

    def figures(self, statistics: dict[str, Statistics]) -> dict[str, dict[str, Any]]:
        """All figures of samples by network, each with what it takes to compare them."""
        reference = self.real_statistics
        return {own.name: figures(own, statistics[own.name], reference[own.name]) for own in self.networks}

    @property
    def memorisation_network(self) -> FeatureNetwork:
        """The first network that is no classifier: features of a class hardly tell its images apart."""
        return next((own for own in self.networks if not own.class_names), self.networks[0])

    def new_queries(self) -> Queries:
        """An empty set of images whose nearest training images are to be found."""
        return Queries(self.memorisation_network)

    def memorisation(self, queries: Queries) -> Memorisation | None:
        """Compare samples with training images; None, with a line in the log, without held-out images."""
        if len(self.held_out) < 2:
            logger.info("no memorisation: it needs held-out images (see --held-out)")
            return None
        held_out = self.new_queries()
        for batch in self._held_out_batches():
            held_out.add(batch["image"], batch["index"].numpy())
        both = [queries.merged(self.share), held_out.merged(self.share)]
        nearest = find_nearest(both, self.real(self.train), self.share, self.progress)
        return memorisation(both[0], both[1], nearest)

    def _held_out_batches(self) -> Iterator[Any]:
        images = self.real(self.held_out, QUERIES)
        batches: Iterator[Any] = images.batches(self.share.rank, self.share.world)
        return batches
