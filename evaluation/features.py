"""Networks whose features are compared, by name; the same weights for every set of images.

A new one is a function under `@register("NAME")`. From Python, any callable is one too, see `custom`.
Shapes: B batch, C channels, H, W image, D features.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, ConfigError
from ..pretrained import weights_sha256
from ..tokenizer.inception import Inception, inception_file, local_file
from ..tokenizer.perceptual import BACKBONE_FILES, Perceptual, backbone_file, local_backbone
from .classifier import ClassifierData, Progress, Trained, trained_classifier
from .distances import INCEPTION_NAMES, DistanceNames
from .statistics import Output

logger = logging.getLogger("imgtf")

AUTO = "auto"


@dataclass(frozen=True)
class FeatureNetwork:
    """A network, and what a reader needs to know to compare figures made with it."""

    name: str
    compute: Callable[[Tensor], Output]
    """Images (B, C, H, W) in [-1, 1] to features (B, D) and, for classifiers, logits."""
    preprocessing: str
    """What happens to the images first, in words."""
    sha256: str
    """Of the weights; empty where it is not known, and then nothing is cached."""
    device: torch.device
    names: DistanceNames = DistanceNames()  # noqa: RUF009
    """What distances in these features are called."""
    class_names: tuple[str, ...] = ()
    """Of a classifier of the data set's own labels."""
    accuracy: float | None = None
    """Of that classifier, on held-out images."""

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Output:
        """Return what the network computes of images (B, C, H, W) in [-1, 1]."""
        return self.compute(images.to(self.device))

    def describe(self) -> dict[str, Any]:
        """What stands beside every figure."""
        found: dict[str, Any] = {"preprocessing": self.preprocessing, "weights_sha256": self.sha256}
        return found | ({} if self.accuracy is None else {"held_out_accuracy": self.accuracy})


@dataclass(frozen=True)
class FeatureRequest:
    """What a feature network may need."""

    device: torch.device
    cache: Path
    classifier: ClassifierData | None = None
    inception_file: Path | None = None
    progress: Progress | None = None
    """Of the classifier's training."""


Maker = Callable[[FeatureRequest], FeatureNetwork]
FEATURES: dict[str, Maker] = {}
"""Feature networks by name."""
Features = str | FeatureNetwork | Sequence[str | FeatureNetwork]


def register(name: str) -> Callable[[Maker], Maker]:
    """Return a decorator that adds a feature network to `FEATURES`."""

    def add(make: Maker) -> Maker:
        FEATURES[name] = make
        return make

    return add


def custom(
    name: str, network: Callable[[Tensor], Tensor], preprocessing: str = "its own", device: str = "cpu"
) -> FeatureNetwork:
    """A feature network from any callable that maps images (B, C, H, W) in [-1, 1] to features (B, D).

    The hash is that of a module's weights; for another callable there is none, and no statistics are cached.
    """
    sha256 = ""
    if isinstance(network, nn.Module):
        network = network.to(device).eval()
        sha256 = weights_sha256(network)
    return FeatureNetwork(
        name, lambda images: Output(network(images)), preprocessing, sha256, torch.device(device)
    )


def load_features(wanted: Features, request: FeatureRequest) -> list[FeatureNetwork]:
    """The feature networks of names, such as `squeeze,classifier`; networks that are given are taken as they are.

    Raises:
        ConfigError: for an unknown name, or a name twice.
        CheckpointError: the weights of a network are missing and cannot be downloaded.
        DataError: `classifier` without labelled images.
    """
    several: Sequence[str | FeatureNetwork] = check_features(wanted)
    return [FEATURES[one](request) if isinstance(one, str) else one for one in several]


def check_features(wanted: Features) -> list[str | FeatureNetwork]:
    """The names and networks one by one. Raises ConfigError for an unknown name, a name twice, or none."""
    given = [wanted] if isinstance(wanted, (str, FeatureNetwork)) else list(wanted)
    several: list[str | FeatureNetwork] = []
    for one in given:
        several += [n.strip() for n in one.split(",") if n.strip()] if isinstance(one, str) else [one]
    names = [one if isinstance(one, str) else one.name for one in several]
    unknown = [one for one in several if isinstance(one, str) and one not in FEATURES]
    if unknown or not names:
        raise ConfigError(
            f"features: unknown {', '.join(map(str, unknown)) or 'name'}; use {', '.join(FEATURES)}"
        )
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ConfigError(f"features: {twice[0]} is named twice")
    return several


@register(AUTO)
def _auto(request: FeatureRequest) -> FeatureNetwork:
    """Inception-v3 where its weights are or can be had; else a network whose weights are here."""
    try:
        return _inception(request)
    except CheckpointError as error:
        logger.info("features: no Inception-v3, and thus no FID: %s", error)
    name = local_backbone()
    if name is None and (request.classifier is None or len(request.classifier.train.class_names) < 2):
        raise CheckpointError(
            "no feature network can be had: put the weights of Inception-v3 or of an LPIPS backbone into torch's cache "
            "(see the lines above), or use labelled data and --features classifier"
        )
    logger.info("features: %s takes its place; its distances are no FIDs", name or "classifier")
    return FEATURES[name or "classifier"](request)


@register("inception")
def _inception(request: FeatureRequest) -> FeatureNetwork:
    """Inception-v3 as published FIDs use it."""
    if request.inception_file is None and local_file() is None and find_spec("torch_fidelity") is not None:
        logger.info("features: the weights of Inception-v3 are not in torch's cache; downloading 91 MB")
    network = Inception(request.inception_file).to(request.device)
    file = request.inception_file or inception_file()
    return FeatureNetwork(
        "inception", lambda images: Output(*network.with_logits(images)),
        "8 bits, grey as three channels, resized to 299x299 (bilinear, as in TensorFlow 1)", file_sha256(file),
        request.device, INCEPTION_NAMES,
    )  # fmt: skip


def _backbone(name: str, request: FeatureRequest) -> FeatureNetwork:
    """The network of LPIPS of that name: its last layer, averaged over positions. Losses with LPIPS see it too."""
    file = backbone_file(name, else_advice="choose other --features")
    network = Perceptual(name, file).to(request.device)
    return FeatureNetwork(
        name, lambda images: Output(network.pooled_features(images)),
        "own size, sides below 32 px enlarged to 32, channels scaled as in LPIPS", file_sha256(file),
        request.device,
    )  # fmt: skip


for _name in ("squeeze", "alex", "vgg"):
    assert _name in BACKBONE_FILES
    register(_name)(lambda request, name=_name: _backbone(name, request))  # type: ignore[misc]


@register("classifier")
def _classifier(request: FeatureRequest) -> FeatureNetwork:
    """A small classifier of the data set's labels, trained on its training images."""
    assert request.classifier is not None
    trained: Trained = trained_classifier(request.classifier, request.device, request.cache, request.progress)
    h, w = trained.network.size
    return FeatureNetwork(
        "classifier", trained.network, f"resized to {h}x{w} where they differ", weights_sha256(trained.network),
        request.device, class_names=trained.class_names, accuracy=trained.accuracy,
    )  # fmt: skip


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, as published weights are named by it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
