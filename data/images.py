"""Data sets of images as tensors: cropped, augmented, with a replacement for every unreadable image."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from math import ceil
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..errors import DataError
from ..options import Size, sides_of
from .config import AugmentationConfig, DataConfig, check_crops, flips
from .decode import BadImage
from .image import CENTRE, Crop, transform
from .order import random_stream
from .source import ImageSource

logger = logging.getLogger("imgtf")

SHIFT = 0.1
"""Largest shift of `--crop shift`, as a fraction of the side."""
MAX_BAD_FRACTION = 0.01  # more unreadable images than this are a fault of the data set


class ImageDataset(torch.utils.data.Dataset[dict[str, Any]]):
    """The images of a source as tensors of one size, indexed by (index, epoch) as `BatchOrder` yields them."""

    def __init__(
        self,
        source: ImageSource,
        size: Size,
        channels: int,
        config: DataConfig,
        augmentation: AugmentationConfig | None = None,
        seed: int = 0,
    ) -> None:
        """
        Args:
            size: side of a square, or (H, W).
            augmentation: random crops and flips; None for the centre crop of every image.
        """
        self.source, self.size, self.channels, self.config = source, size, channels, config
        self.augmentation, self.seed = augmentation, seed
        self.flip = augmentation is not None and flips(config, augmentation)
        self.smallest_crop = 1.0 if augmentation is None else augmentation.crop_scale
        """Size of the smallest crop, relative to the largest one."""

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: tuple[int, int] | int) -> dict[str, Any]:
        """Return one image. An unreadable image is replaced by the next readable one.

        Returns:
            image: (channels, H, W) float32 in [-1, 1].
            label: class index, or -1. text: caption, or "". index: the given index.
            bad: "", or the file of the unreadable image and the reason.

        Raises:
            DataError: the image is unreadable and `bad_images` is "fail", or all images are unreadable.
        """
        index, epoch = (int(k) for k in (key if isinstance(key, tuple) else (key, 0)))
        bad = ""
        for row in _from(index, len(self.source)):
            try:
                image = self._image(row, index, epoch)
            except BadImage as error:
                if self.config.bad_images == "fail":
                    raise DataError(f"{error}: repair or remove it, or use --bad-images skip") from None
                bad = bad or str(error)
                continue
            # Label and caption belong to the replacement, so that they match its pixels.
            label, text = self.source.label(row), self.source.text(row)
            label = -1 if label is None else label
            return {"image": image, "label": label, "text": text or "", "index": index, "bad": bad}
        raise DataError(f"{self.source.name}: no image can be read ({bad})")

    @property
    def at_least(self) -> int:
        """Shorter side that an image needs, in pixels."""
        return ceil(max(sides_of(self.size)) / self.smallest_crop)

    def _image(self, row: int, index: int, epoch: int) -> torch.Tensor:
        image = self.source.image(row, self.at_least)
        return self.pixels(image, index, epoch, lambda: self.source.where(row))

    def pixels(self, image: Image.Image, index: int, epoch: int, where: Callable[[], str]) -> torch.Tensor:
        """Return a decoded image as `__getitem__` does. Raises BadImage."""
        try:
            return self._pixels(image, index, epoch)
        except BadImage as error:
            raise BadImage(where(), error.why) from None
        except (OSError, ValueError, MemoryError) as error:
            raise BadImage(where(), str(error) or type(error).__name__) from error

    def _pixels(self, image: Image.Image, index: int, epoch: int) -> torch.Tensor:
        if self.augmentation is None:
            return self._transform(image, CENTRE)
        # One random stream per image and epoch: workers and resumed runs draw the same crops.
        stream = random_stream(self.seed, epoch, index)
        return self._transform(image, draw_crop(stream, self.augmentation, self.flip))

    def _transform(self, image: Image.Image, crop: Crop) -> torch.Tensor:
        return transform(image, self.size, self.channels, self.config.background, crop)


class CropsDataset(ImageDataset):
    """Several fixed crops of each image: the centre crop, then random or shifted ones.

    `image` is (crops, channels, H, W).
    Two sources with corresponding rows (images and their conditioning images) get the same crops.
    """

    def __init__(
        self,
        source: ImageSource,
        size: Size,
        channels: int,
        config: DataConfig,
        augmentation: AugmentationConfig,
        crops: int,
    ) -> None:
        """Raises ConfigError if all crops would be the same."""
        check_crops(augmentation, crops)
        super().__init__(source, size, channels, config)
        self.random_crops, self.crops = augmentation, crops
        self.smallest_crop = augmentation.crop_scale if crops > 1 else 1.0

    def _pixels(self, image: Image.Image, index: int, epoch: int) -> torch.Tensor:
        streams = [random_stream(0, crop, index) for crop in range(1, self.crops)]
        crops = [CENTRE, *(draw_crop(stream, self.random_crops, flip=False) for stream in streams)]
        return torch.stack([self._transform(image, crop) for crop in crops])


class BadImages:
    """Counter of unreadable images in the main process: warns about each, stops the run at too many."""

    def __init__(self, total: int, policy: str = "skip", streamed: bool = False) -> None:
        """
        Args:
            total: images in the data set.
            policy: "skip" up to 1 % of them, or "fail" at the first.
            streamed: the number is not known; `total` is the least. It grows with the images that are noted.
        """
        self.total, self.policy = total, policy
        self.noted = 0 if streamed else None
        self.seen: dict[str, None] = {}  # in order of appearance

    def note(self, bads: Iterable[str]) -> None:
        """Count the "bad" entries of a batch. Raises DataError if there are too many."""
        for bad in bads:
            self.noted = None if self.noted is None else self.noted + 1
            if bad and bad not in self.seen:
                self.seen[bad] = None
                logger.warning("unreadable image skipped: %s", bad)
        self.total = max(self.total, self.noted or 0)
        count = len(self.seen)
        if count and self.policy == "fail":
            raise DataError(f"{next(iter(self.seen))}: repair or remove it, or use --bad-images skip")
        if count > most_bad(self.total):
            gone = sum(bad.endswith("no such file") for bad in self.seen)
            advice = f"{gone} were removed during the run" if gone else "repair or remove them"
            raise DataError(
                f"{count} of {self.total} images cannot be read, more than 1 %: {advice}; "
                f"the first is {next(iter(self.seen))}"
            )


def most_bad(total: int) -> float:
    """Return how many of `total` images may be unreadable: one, or 1 %."""
    return max(1, MAX_BAD_FRACTION * total)


def draw_crop(stream: np.random.Generator, augmentation: AugmentationConfig, flip: bool) -> Crop:
    """Draw a crop, flipped half of the time with `flip`."""
    # Always four numbers, so that flips do not depend on the kind of crop.
    x, mirror, y, shrink = stream.random(4)
    flipped = bool(flip and mirror < 0.5)
    if augmentation.crop == "shift":
        return Crop(flipped=flipped, shift=(SHIFT * (2 * y - 1), SHIFT * (2 * x - 1)))
    if augmentation.crop != "random":
        return Crop(flipped=flipped)
    return Crop(x, y, 1 - shrink * (1 - augmentation.crop_scale), flipped)


def _from(index: int, length: int) -> Iterable[int]:
    return ((index + step) % length for step in range(length))
