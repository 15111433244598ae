"""A small classifier of a data set's own labels: features that no loss has seen, and the classes of samples.

It is trained in a few minutes on the labelled training images, and cached. Shapes: B batch, C channels, H, W image,
K classes.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

from ..data.config import AugmentationConfig, DataConfig, worker_count
from ..data.images import ImageDataset
from ..data.loader import Batch, eval_batches, train_batches
from ..data.source import ImageSource
from ..errors import CheckpointError, DataError
from ..pretrained import load_tensors, write_tensors
from ..runtime.precision import pick_precision
from .cache import cache_key
from .statistics import Output

logger = logging.getLogger("imgtf")

WIDTHS = (32, 64, 128, 192)
SIDES = 32, 128
"""Smallest and largest shorter side that the network reads; other images are resized."""
SEEN = 96_000
"""Images of training, counted with repetition; at most `EPOCHS` times each."""
EPOCHS = 40
BATCH_SIZE = 64
LEARNING_RATE, WEIGHT_DECAY, LABEL_SMOOTHING = 2e-3, 0.05, 0.1
VERSION = 1
"""Increases with every change of the network or of its training."""


class Classifier(nn.Module):
    """Images (B, C, H, W) in [-1, 1] to features (B, 192) and logits (B, K). Convolutions without residuals."""

    def __init__(self, channels: int, classes: int, size: tuple[int, int]) -> None:
        """`size`: (H, W) of the images. Large ones are read with a stride, so that the cost stays the same."""
        super().__init__()
        scale = SIDES[0] / min(size) if min(size) < SIDES[0] else min(1.0, SIDES[1] / min(size))
        self.size = (round(size[0] * scale), round(size[1] * scale))
        stride = max(1, min(self.size) // SIDES[0])
        layers: list[nn.Module] = []
        before = channels
        for number, width in enumerate(WIDTHS):
            first = stride if number == 0 else 1
            layers += [*_convolution(before, width, first), *_convolution(width, width), nn.MaxPool2d(2)]
            before = width
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(before, classes)

    def forward(self, images: Tensor) -> Output:
        """Return features, averaged over positions, and logits."""
        if images.shape[2:] != self.size:
            images = F.interpolate(images, self.size, mode="bilinear", antialias=True, align_corners=False)
        features = self.layers(images).mean((2, 3))  # (B, 192)
        return Output(features, self.head(F.dropout(features, 0.3, self.training)))


def _convolution(before: int, after: int, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(before, after, 2 * stride + 1, stride, stride, bias=False)
    return [convolution, nn.BatchNorm2d(after), nn.ReLU()]


@dataclass(frozen=True)
class Trained:
    """A classifier and how well it does."""

    network: Classifier
    class_names: tuple[str, ...]
    accuracy: float | None
    """On held-out images; None without labelled ones."""


@dataclass(frozen=True)
class ClassifierData:
    """What a classifier is trained on."""

    train: ImageSource
    held_out: ImageSource
    data: DataConfig
    size: tuple[int, int]
    """(H, W) of the images, as the model has them."""
    channels: int

    def images(self, source: ImageSource, augmented: bool = False) -> ImageDataset:
        """The images of a source at the size of the model."""
        augmentation = AugmentationConfig() if augmented else None
        return ImageDataset(source, self.size, self.channels, self.data, augmentation)


Progress = Callable[[float, int], object]
"""Called with the images since the last call, and their total."""


def trained_classifier(
    given: ClassifierData, device: torch.device, cache: Path, progress: Progress | None = None
) -> Trained:
    """The classifier of a data set at a size, from the cache or trained.

    Raises:
        DataError: the training images have fewer than two classes.
    """
    if len(given.train.class_names) < 2:
        raise DataError(
            f"{given.train.name}: the features of a classifier need labelled images of two or more classes; "
            f"name others with --features"
        )
    file = cache / f"classifier-{_key(given)}.safetensors"
    found = _cached(given, file) if file.exists() else None
    if found is None:
        found = _train(given, device, progress)
        cache.mkdir(parents=True, exist_ok=True)
        about = {"class_names": found.class_names, "accuracy": found.accuracy}
        write_tensors(file, found.network.state_dict(), {"about": json.dumps(about)})
    found.network.to(device).eval().requires_grad_(False)
    return found


def _key(given: ClassifierData) -> str:
    parts = {
        "version": VERSION, "training images": given.train.fingerprint, "size": given.size,
        "channels": given.channels, "background": given.data.background,
    }  # fmt: skip
    return cache_key(parts)


def _untrained(given: ClassifierData) -> Classifier:
    """The network with the same weights every time; the global random generator is left as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Classifier(given.channels, len(given.train.class_names), given.size)


def _cached(given: ClassifierData, file: Path) -> Trained | None:
    """The classifier of a file; None, with a line in the log, where the file is damaged."""
    network = _untrained(given)
    try:
        load_tensors(network, file)
        with safe_open(file, framework="pt") as opened:
            about = json.loads(opened.metadata()["about"])
    except (CheckpointError, KeyError, TypeError, ValueError) as error:
        logger.warning("classifier: trained again, because its file cannot be used (%s)", error)
        return None
    return Trained(network, given.train.class_names, about["accuracy"])


def _train(given: ClassifierData, device: torch.device, progress: Progress | None) -> Trained:
    images = given.images(given.train, augmented=True)
    batch_size = min(BATCH_SIZE, len(images))
    steps = max(1, min(SEEN, EPOCHS * len(images)) // batch_size)
    logger.info("classifier: training on the %d training images of %s", len(images), given.train.name)
    batches = train_batches(images, batch_size, seed=0, workers=worker_count(given.data))
    network = _untrained(given).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        _optimise(network.train(), batches, steps, device, progress)
    accuracy = held_out_accuracy(network.eval(), given, device)
    logger.info(
        "classifier: accuracy on held-out images %s", "unknown" if accuracy is None else f"{accuracy:.3f}"
    )
    return Trained(network, given.train.class_names, accuracy)


def _optimise(
    network: Classifier, batches: object, steps: int, device: torch.device, progress: Progress | None
) -> None:
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps + 1)
    for _, batch in zip(range(steps), batches, strict=False):  # type: ignore[call-overload]
        loss = _loss(network, batch, device)
        if loss is not None:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
        if progress is not None:
            progress(len(batch["image"]), steps * len(batch["image"]))


def _loss(network: Classifier, batch: Batch, device: torch.device) -> Tensor | None:
    """Cross entropy of the labelled images of a batch, shifted by up to an eighth; None without any."""
    labelled = batch["label"] >= 0
    if labelled.sum() < 2:  # batch norm needs more than one
        return None
    images = batch["image"][labelled].to(device, memory_format=torch.channels_last)
    shift = [max(1, side // 8) for side in images.shape[2:]]
    y, x = (int(torch.randint(2 * most + 1, ())) for most in shift)
    padded = F.pad(images, (shift[1], shift[1], shift[0], shift[0]), mode="replicate")
    moved = padded[..., y : y + images.shape[2], x : x + images.shape[3]]
    half = pick_precision("auto", device) == "bf16"
    with torch.autocast(device.type, torch.bfloat16, enabled=half):
        logits = network(moved).logits
    assert logits is not None
    labels = batch["label"][labelled].to(device)
    return F.cross_entropy(logits.float(), labels, label_smoothing=LABEL_SMOOTHING)


@torch.no_grad()
def held_out_accuracy(network: Classifier, given: ClassifierData, device: torch.device) -> float | None:
    """Share of the labelled held-out images whose class the network sees; None without any."""
    right = total = 0
    for batch in eval_batches(given.images(given.held_out), BATCH_SIZE) if len(given.held_out) else ():
        labels = batch["label"]
        logits = network(batch["image"].to(device)).logits.cpu()
        right += int((logits.argmax(1) == labels)[labels >= 0].sum())
        total += int((labels >= 0).sum())
    return right / total if total else None
