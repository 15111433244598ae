"""Images from other images: translation (label map to photograph, grey to colour) and upscaling.

Shapes: H, W image of the model, Y, X conditioning image of one window, h, w grid, q codes per latent.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any

import numpy as np
from PIL import Image

from ...data.decode import BadImage
from ...data.image import plain
from ...errors import ConfigError, DataError
from ...options import size_text, whole_number
from ...tokenizer.images import ImageLike, open_image, to_list
from ..canvas import Canvas, Window
from ..conditioning_images import ImageLoader, reduced_sides
from ..names import from_first
from ..request import MAX_IMAGES, Progress, Sample, sampling_settings
from ..sampling import Sampling

logger = logging.getLogger("imgtf")

Sides = tuple[int, int]
"""Height and width in pixels."""
MOST_PIXELS = 2**27
"""Largest result."""


def translation(sampling: Sampling, image: ImageLike) -> Canvas:
    """Return a canvas that is sampled given a conditioning image.

    The image is resized until its shorter side fits the model. A longer side makes the canvas larger than the trained
    grid, which is sampled window by window, each given its part of the image.

    Raises:
        ConfigError: the prior has no conditioning image, or it enlarges images.
        DataError: the image cannot be read, or the result would be too large.
    """
    return Conditioning(sampling, upscale=False).canvas(image)


def upscaling(sampling: Sampling, image: ImageLike) -> Canvas:
    """Return a canvas that is sampled given a small image, enlarged as a whole: 16 px to 64 px for such a prior.

    A larger image makes the canvas larger than the trained grid: 32x24 px become 128x96 px, window by window.

    Raises:
        ConfigError: the prior does not enlarge images.
        DataError: the image cannot be read, or the result would be too large.
    """
    return Conditioning(sampling, upscale=True).canvas(image)


class Conditioning:
    """A prior that is conditioned on images, and how images of any size become its conditions."""

    def __init__(self, sampling: Sampling, *, upscale: bool) -> None:
        """Raises ConfigError for a prior of another kind than `upscale` says."""
        self.sampling, self.loader, self.upscale = sampling, _image_loader(sampling, upscale), upscale
        tokenizer = self.loader.image_tokenizer.config
        self.channels = tokenizer.channels
        self.whole: Sides = sampling.tokenizer.config.size
        """(H, W)."""
        self.part: Sides = (
            reduced_sides(tokenizer.size, self.loader.config.reduced_size) if upscale else tokenizer.size
        )
        """(Y, X), pixels of the conditioning image that a window reads."""
        self.resized = 0
        """Images so far that were resized to fit the model."""

    def result_size(self, given: Sides) -> Sides:
        """Return the size of the result for an image of a size; the ratio of the sides is the same."""
        if self.upscale:
            scale = min(self.whole) / min(self.part)
        else:
            scale = max(H / own for H, own in zip(self.whole, given, strict=True))
        return max(1, round(given[0] * scale)), max(1, round(given[1] * scale))

    def grid(self, result: Sides) -> Sides:
        """Return the grid (h, w * q) of a canvas that holds a result: at least the trained one."""
        f, config = self.sampling.tokenizer.config.factor, self.sampling.tokenizer.config
        h, w = (-(-max(own, H) // f) for own, H in zip(result, self.whole, strict=True))
        return h, w * config.codes_per_latent

    def tokens(self, given: Sides) -> int:
        """Return the number of codes that an image of a size takes."""
        h, w = self.grid(self.result_size(given))
        return h * w

    def canvas(self, image: ImageLike, where: str = "the image") -> Canvas:
        """Return the canvas of one image; a path names itself in errors."""
        where = str(image) if isinstance(image, (str, PathLike)) else where
        given = _read(image, where, self.channels)
        result = self.result_size((given.height, given.width))
        if result[0] * result[1] > MOST_PIXELS:
            raise DataError(
                f"{where}: the result would have {result[1]}x{result[0]} pixels, more than {MOST_PIXELS:,}; reduce it"
            )
        empty = Canvas.empty(self.grid(result))
        if empty.grid != self.sampling.prior.config.grid:
            logger.info("%s: sampled window by window at %dx%d pixels", where, result[1], result[0])
        source = self._source(given, result, empty.grid)
        return replace(
            empty,
            finish=lambda decoded: decoded.crop((0, 0, result[1], result[0])),
            values_at=lambda window: {"image": self._part_at(source, window)},
        )

    def whole_image(self, canvas: Canvas) -> Image.Image:
        """Return the conditioning image of a canvas of the trained grid."""
        assert canvas.values_at is not None
        image: Image.Image = canvas.values_at(Window(0, 0, *canvas.grid))["image"]
        return image

    def _source(self, given: Image.Image, result: Sides, grid: Sides) -> Image.Image:
        """Return the conditioning image of a canvas, mirrored beyond the result's border where the canvas is larger."""
        (H, W), (Y, X), config = self.whole, self.part, self.sampling.tokenizer.config
        fitting = (max(1, round(result[0] * Y / H)), max(1, round(result[1] * X / W)))
        if not self.upscale and fitting != (given.height, given.width):
            given = _resized(given, fitting)
            self.resized += 1
        height, width = grid[0] * config.factor, grid[1] // config.codes_per_latent * config.factor
        return _mirrored(given, (math.ceil(height * Y / H), math.ceil(width * X / W)))

    def _part_at(self, source: Image.Image, window: Window) -> Image.Image:
        """Return the conditioning image of a window, (Y, X) px."""
        (H, W), (Y, X), config = self.whole, self.part, self.sampling.tokenizer.config
        top = window.top * config.factor * Y / H
        left = window.left // config.codes_per_latent * config.factor * X / W
        box = (left, top, min(left + X, source.width), min(top + Y, source.height))
        if all(side == int(side) for side in box):
            return source.crop((int(left), int(top), int(left) + X, int(top) + Y))
        return _resized(source, (Y, X), box)


@dataclass(frozen=True)
class Translation:
    """One call: n variants of each of several images."""

    conditioning: Conditioning
    images: Sequence[ImageLike]
    n: int
    first: int
    group: int
    """Images of the model's shape that are sampled together, at least 1."""
    shard: tuple[int, int]
    given: dict[str, Any]
    """Other arguments of `Sampling.stream`."""

    def samples(self) -> Iterator[Sample]:
        """Yield the samples. Image i has the numbers `first` + i * n to `first` + i * n + n - 1."""
        for number, (start, canvases) in enumerate(self._groups()):
            if number % self.shard[1] == self.shard[0]:
                yield from self._sample(start, canvases)
        if self.conditioning.resized:
            size = size_text(self.conditioning.sampling.tokenizer.config.image_size)
            logger.info(
                "%d of %d images were resized to the model's %s pixels",
                self.conditioning.resized,
                len(self.images),
                size,
            )

    def _groups(self) -> Iterator[tuple[int, list[Canvas]]]:
        """Yield canvases that are sampled together, with the number of the first: neighbours of the trained grid."""
        trained, waiting, start = self.conditioning.sampling.prior.config.grid, list[Canvas](), 0
        for number, image in enumerate(self.images):
            canvas = self.conditioning.canvas(image, f"image {number} of the list")
            if waiting and (canvas.grid != trained or len(waiting) == self.group):
                yield start, waiting
                waiting = []
            start = start if waiting else number
            waiting.append(canvas)
            if canvas.grid != trained:
                yield start, waiting
                waiting = []
        if waiting:
            yield start, waiting

    def _sample(self, start: int, canvases: list[Canvas]) -> Iterator[Sample]:
        stream, first = self.conditioning.sampling.stream, self.first + start * self.n
        if len(canvases) == 1:
            yield from stream(self.n, first=first, canvas=canvases[0], **self.given)
            return
        images = [self.conditioning.whole_image(canvas) for canvas in canvases for _ in range(self.n)]
        for sample in stream(len(images), image=from_first(images, first), first=first, **self.given):
            canvas = canvases[(sample.index - first) // self.n]
            yield replace(sample, image=canvas.finish(sample.image))


def translated(
    sampling: Sampling,
    images: ImageLike | Sequence[ImageLike],
    n: int = 1,
    *,
    upscale: bool = False,
    first: int = 0,
    batch_size: int | None = None,
    shard: tuple[int, int] = (0, 1),
    progress: Progress | None = None,
    **given: Any,
) -> Iterator[Sample]:
    """Yield n variants of each image, in the order of the images. Images of the model's shape are sampled together.

    Args:
        upscale: for priors that enlarge images; False for those with another conditioning image.
        first: number of the first image in the sequence of the seed.
        batch_size: images sampled at once; None: as many as fit in half of the free memory.
        shard: (k, m) samples every m-th group of images from the k-th on, so that m processes share the work.
        given: label, text, features, seed and sampling settings, as for `Sampling.stream`.

    Raises:
        ConfigError: a prior of the other kind, or an argument out of range.
        DataError: an image cannot be read; raised when it is its turn.
    """
    several = to_list(images)
    n = whole_number("n", n, 1, MAX_IMAGES)
    conditioning = Conditioning(sampling, upscale=upscale)
    if batch_size is None:
        settings = {k: v for k, v in given.items() if k not in ("label", "text", "features", "seed")}
        used = sampling_settings(sampling.prior.config, **settings)
        batch_size = sampling.auto_batch_size(n * len(several), used)
    group = min(whole_number("batch_size", batch_size, 1, MAX_IMAGES) // n, -(-len(several) // shard[1]))
    given = {**given, "batch_size": batch_size, "progress": progress}
    return Translation(conditioning, several, n, first, max(1, group), shard, given).samples()


def _image_loader(sampling: Sampling, upscale: bool) -> ImageLoader:
    """Return the loader of the prior's conditioning images. Raises ConfigError for a prior of the other kind."""
    loaders = [own for own in sampling.loaders if isinstance(own, ImageLoader)]
    if not loaders:
        kinds = ", ".join(sampling.prior.config.condition_kinds) or "nothing"
        option = "--conditioning-size" if upscale else "--conditioning-column"
        raise ConfigError(f"this prior is conditioned on {kinds}, not on an image: train one with {option}")
    reduced = loaders[0].config.reduced_size
    if upscale and not reduced:
        raise ConfigError(
            "this prior does not enlarge images, it translates them: use `imgtf edit translate`"
        )
    if reduced and not upscale:
        raise ConfigError(f"this prior enlarges images of {reduced} pixels: use `imgtf edit upscale`")
    return loaders[0]


def _read(image: ImageLike, where: str, channels: int) -> Image.Image:
    """Return an image of any kind, upright and opaque: mode L, RGB, or F in [0, 1]."""
    try:
        return plain(open_image(image, where), channels, "white")
    except BadImage as error:
        raise BadImage(where, error.why) from error
    except OSError as error:  # a PIL image that is decoded only now
        raise BadImage(where, str(error)) from error


def _resized(
    image: Image.Image, sides: Sides, box: tuple[float, float, float, float] | None = None
) -> Image.Image:
    """Return an image, or a part of it, resized in one step as in training."""
    resized = image.resize(sides[::-1], Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)
    return Image.fromarray(np.asarray(resized).clip(0, 1)) if image.mode == "F" else resized


def _mirrored(image: Image.Image, sides: Sides) -> Image.Image:
    """Return an image continued to the right and downwards by its mirror image, at least to a size."""
    down, right = (max(0, own - side) for own, side in zip(sides, (image.height, image.width), strict=True))
    if not down and not right:
        return image
    pixels = np.asarray(image)
    widths = ((0, down), (0, right), (0, 0))[: pixels.ndim]
    return Image.fromarray(np.pad(pixels, widths, mode="symmetric"))
