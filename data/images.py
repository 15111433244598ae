"""Images as training wants them: augmented, each by its own random stream, broken ones stood in for."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from math import ceil
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..errors import DataError
from .config import DataConfig, flips
from .decode import BadImage
from .image import transform
from .source import ImageSource

log = logging.getLogger("imgtf")

BAD_SHARE = 0.01  # more broken images than this are no accident


class ImageDataset(torch.utils.data.Dataset[dict[str, Any]]):
    """The images of a source as square tensors; asked for by (index, epoch), as `BatchOrder` draws them."""

    def __init__(
        self,
        source: ImageSource,
        size: int,
        channels: int,
        config: DataConfig,
        augment: bool = False,
        seed: int = 0,
    ) -> None:
        """`augment`: random crops and flips as the config says; without it, every image centre cropped."""
        self.source, self.size, self.channels, self.config = source, size, channels, config
        self.augment, self.seed = augment, seed
        self.crop = config.crop if augment else "centre"
        self.flip = augment and flips(config)
        self.smallest = config.crop_scale if self.crop == "random" else 1.0
        """Share of the image's shorter side that is resized to `size`, at least: decoding may reduce the rest."""

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: tuple[int, int] | int) -> dict[str, Any]:
        """One image, or the next readable one where it is broken.

        Returns:
            image: (channels, size, size) float32 in [-1, 1].
            label: its class, -1 without. text: its caption, "" without.
            index: as asked for. bad: "", or which image is broken and why.

        Raises:
            DataError: the image is broken and `bad_images` is "fail", or all of them are.
        """
        index, epoch = key if isinstance(key, tuple) else (key, 0)
        bad = ""
        for row in _from(index, len(self.source)):
            try:
                image = self._image(row, index, epoch)
            except BadImage as error:
                if self.config.bad_images == "fail":
                    raise DataError(f"{error}: mend or remove it, or allow --bad-images skip") from None
                bad = bad or str(error)
                continue
            # Label and text are those of the image that stands in, so that they belong together.
            label, text = self.source.label(row), self.source.text(row)
            label = -1 if label is None else label
            return {"image": image, "label": label, "text": text or "", "index": index, "bad": bad}
        raise DataError(f"{self.source.name}: none of its images can be read ({bad})")

    def _stream(self, index: int, epoch: int) -> np.random.Generator | None:
        if not self.augment:
            return None
        # Its own stream for each image and epoch: neither the number of workers nor a resume changes it.
        return np.random.default_rng((self.seed % 2**64, epoch, index))

    def _image(self, row: int, index: int, epoch: int) -> torch.Tensor:
        image = self.source.image(row, at_least=ceil(self.size / self.smallest))
        try:
            return self._pixels(image, index, epoch)
        except BadImage as error:
            raise BadImage(self.source.where(row), error.why) from None
        except (OSError, ValueError, MemoryError) as error:
            raise BadImage(self.source.where(row), str(error) or type(error).__name__) from error

    def _pixels(self, image: Image.Image, index: int, epoch: int) -> torch.Tensor:
        return self._crop(image, self.crop, self.flip, self._stream(index, epoch))

    def _crop(
        self, image: Image.Image, crop: str, flip: bool, stream: np.random.Generator | None
    ) -> torch.Tensor:
        config = self.config
        return transform(
            image, self.size, self.channels, config.background, crop, flip, stream, config.crop_scale
        )


class Views(ImageDataset):
    """Several pictures of each image, the same every time: its centre crop, and the others at random places.

    `image` is (views, channels, size, size). Where another source has pictures of the same things in the same rows, its
    views are of the same places.
    """

    def __init__(
        self, source: ImageSource, size: int, channels: int, config: DataConfig, views: int = 1
    ) -> None:
        super().__init__(source, size, channels, config)
        self.views = views
        self.smallest = config.crop_scale if views > 1 else 1.0

    def _pixels(self, image: Image.Image, index: int, epoch: int) -> torch.Tensor:
        streams = [np.random.default_rng((0, view, index)) for view in range(1, self.views)]
        crops = [self._crop(image, "random", False, stream) for stream in streams]
        return torch.stack([self._crop(image, "centre", False, None), *crops])


class BadImages:
    """Counts the broken images of a run, in the main process: warns of each, stops where there are many."""

    def __init__(self, total: int, policy: str = "skip") -> None:
        """`total`: images in the data set. `policy`: "skip" up to 1 % of them, or "fail" at the first."""
        self.total, self.policy = total, policy
        self.seen: dict[str, None] = {}  # in the order they were met

    def note(self, bads: Iterable[str]) -> None:
        """Takes the "bad" entries of a batch. Raises DataError when there are too many."""
        for bad in bads:
            if bad and bad not in self.seen:
                self.seen[bad] = None
                log.warning("broken image left out: %s", bad)
        count = len(self.seen)
        if count and self.policy == "fail":
            raise DataError(f"{next(iter(self.seen))}: mend or remove it, or allow --bad-images skip")
        if count > max(1, BAD_SHARE * self.total):
            raise DataError(
                f"{count} of {self.total} images cannot be read, more than 1 %: mend or remove them; "
                f"the first is {next(iter(self.seen))}"
            )


def _from(index: int, length: int) -> Iterable[int]:
    return ((index + step) % length for step in range(length))
