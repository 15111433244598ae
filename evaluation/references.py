"""Statistics of real images in feature networks, computed once and cached as safetensors.

The key holds everything that they depend on: the images, their size and preprocessing, the network and its weights.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..data.config import DataConfig, worker_count
from ..data.images import BadImages, ImageDataset
from ..data.loader import Batch, eval_batches
from ..data.source import ImageSource
from ..errors import DataError
from ..pretrained import write_tensors
from .cache import cache_key
from .features import FeatureNetwork
from .statistics import KEPT, Agreement, Moments, Probabilities, Statistics, merged

logger = logging.getLogger("imgtf")

BATCH_SIZE = 64
VERSION = 1
"""Increases with every change of what is stored or how it is computed."""

Progress = Callable[[str, float, int], object]
"""Called with the kind of work, the images since the last call, and their total."""
Gather = Callable[[Any], list[Any]]
"""The values of all processes by rank, in every process."""


@dataclass(frozen=True)
class Share:
    """The part of the work that this process does, and how it meets the others."""

    rank: int = 0
    world: int = 1
    gather: Gather = lambda value: [value]


ALONE = Share()


@dataclass(frozen=True)
class RealImages:
    """Images of one split of a data set at the size of a model."""

    source: ImageSource
    data: DataConfig
    size: tuple[int, int]
    """(H, W)."""
    channels: int
    limit: int | None = None
    """Largest number of images, evenly spaced; None for all."""

    def __post_init__(self) -> None:
        if len(self.source) < 2:
            raise DataError(
                f"{self.source.name}: {len(self.source)} images in {self.source.split}; a reference needs two or "
                f"more (see --held-out, --held-out-split and --reference)"
            )

    def __len__(self) -> int:
        return min(len(self.source), self.limit or len(self.source))

    @property
    def dataset(self) -> ImageDataset:
        """The centre crops."""
        return ImageDataset(self.source, self.size, self.channels, self.data)

    def batches(self, rank: int = 0, world: int = 1) -> Any:
        """Batches of one of several processes. Raises DataError for too many unreadable images."""
        bad_images = BadImages(len(self.source), self.data.bad_images)
        workers = worker_count(self.data)
        for batch in eval_batches(
            self.dataset, BATCH_SIZE, limit=self.limit, rank=rank, world=world, workers=workers
        ):
            bad_images.note(batch["bad"])
            yield batch

    def describe(self) -> dict[str, Any]:
        """What stands beside every figure."""
        return {
            "data": self.source.name, "split": self.source.split, "images": len(self), "size": list(self.size),
            "channels": self.channels, "fingerprint": self.source.fingerprint,
        }  # fmt: skip


def reference_statistics(
    images: RealImages,
    networks: Sequence[FeatureNetwork],
    cache: Path | None = None,
    share: Share = ALONE,
    progress: Progress | None = None,
) -> dict[str, Statistics]:
    """The statistics of real images by the name of the network: those in the cache, and the others in one pass.

    Raises:
        DataError: too many images cannot be read.
    """
    about = images.describe()
    files = {own.name: _file(cache, images, about, own) for own in networks}
    found = {name: _cached(file) for name, file in files.items() if file is not None and file.exists()}
    # All processes go the same way, also where one of them finds a file that another has just written.
    have = {name: own for name, own in share.gather(found)[0].items() if own is not None}
    missing = [own for own in networks if own.name not in have]
    if missing:
        have |= _computed(images, missing, share, progress)
        for own in missing:
            file = files[own.name]
            if file is not None and share.rank == 0:
                _write(file, have[own.name], about | {"network": own.name} | own.describe())
    return have


def _computed(
    images: RealImages, networks: Sequence[FeatureNetwork], share: Share, progress: Progress | None
) -> dict[str, Statistics]:
    own = {network.name: Statistics() for network in networks}
    for batch in images.batches(share.rank, share.world):
        add_batch(
            own, networks, batch["image"], batch["index"].numpy(), real_labels(batch, images.source, networks)
        )
        if progress is not None:
            progress(f"features of {images.source.split}", len(batch["index"]) * share.world, len(images))
    parts = share.gather(own)
    return {name: merged([part[name] for part in parts]) for name in own}


def add_batch(
    statistics: dict[str, Statistics],
    networks: Sequence[FeatureNetwork],
    images: Tensor,
    indices: Any,
    labels: dict[str, Tensor] | None = None,
) -> None:
    """Add images (B, C, H, W) in [-1, 1] to the statistics in each network; labels (B,) by network."""
    for network in networks:
        own = (labels or {}).get(network.name)
        statistics[network.name].add(network(images), indices, own)


def real_labels(batch: Batch, source: ImageSource, networks: Sequence[FeatureNetwork]) -> dict[str, Tensor]:
    """The classes of a batch of real images as each classifier numbers them; -1 for others."""
    return {
        own.name: class_numbers(
            [source.class_names[i] if i >= 0 else None for i in batch["label"].tolist()], own
        )
        for own in networks
        if own.class_names
    }


def class_numbers(labels: Sequence[str | None], network: FeatureNetwork) -> Tensor:
    """The numbers (B,) of class names in a classifier; -1 for none and for names that it does not know."""
    numbers = {name: i for i, name in enumerate(network.class_names)}
    return torch.tensor([numbers.get(label, -1) if label is not None else -1 for label in labels])


def _file(
    cache: Path | None, images: RealImages, about: dict[str, Any], network: FeatureNetwork
) -> Path | None:
    if cache is None or not network.sha256:
        return None
    parts = about | network.describe() | {
        "version": VERSION, "network": network.name, "background": images.data.background, "kept": KEPT,
    }  # fmt: skip
    return cache / f"reference-{network.name}-{cache_key(parts)}.safetensors"


def _write(file: Path, own: Statistics, about: dict[str, Any]) -> None:
    assert own.moments is not None
    file.parent.mkdir(parents=True, exist_ok=True)
    counts = [own.moments.count, own.agreement.matched, own.agreement.labelled]
    tensors = {
        "counts": torch.tensor(counts), "mean": own.moments.mean, "scatter": own.moments.scatter,
        "features": own.kept.features, "indices": torch.from_numpy(own.kept.indices),
    }  # fmt: skip
    if own.probabilities is not None:
        p = own.probabilities
        tensors |= {"p_count": p.count, "p": p.p, "p_log_p": p.p_log_p}
    write_tensors(file, tensors, {"about": json.dumps(about)})


def _cached(file: Path) -> Statistics | None:
    """The statistics of a file; None, with a line in the log, where the file is damaged."""
    try:
        with safe_open(file, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        count, matched, labelled = tensors["counts"].tolist()
        own = Statistics()
        own.moments = Moments.restored(count, tensors["mean"], tensors["scatter"])
        own.kept.parts = [(tensors["indices"].numpy(), tensors["features"])]
        own.agreement = Agreement(matched, labelled)
        if "p" in tensors:
            own.probabilities = Probabilities(1)
            own.probabilities.__dict__ |= {
                "count": tensors["p_count"], "p": tensors["p"], "p_log_p": tensors["p_log_p"],
            }  # fmt: skip
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        logger.warning("%s: computed again, because the file cannot be used (%s)", file, error)
        return None
    return own
