"""How likely a model finds images, and where it finds them unlikely.

Shapes: h, w grid, T = h*w tokens, B images.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from ..data.decode import BadImage
from ..data.image import check_background
from ..options import whole_number
from ..tokenizer.images import ImageLike, to_list
from .condition_loader import to_condition
from .heatmap import overlay, smooth
from .models import Models
from .prepare import Prepared, changed_text, fixed_values, prepare
from .request import Features, Labels, Progress, Texts
from .surprise import batch_size, surprise

logger = logging.getLogger("imgtf")

MAPS = ("unusual", "bits")
ORDERS, MAX_ORDERS = 8, 1024
SMOOTHING = 1.0
"""Standard deviation of the Gaussian over a heat map, in tokens. One token alone says little."""
SCALE = {"unusual": (0.5, 2.5), "bits": (0.5, 1.5)}
"""Ends of the scale of a heat map: standard deviations; bits, where 1 is those of equally likely codes."""
MIN_VARIANCE = 0.5
"""Added to the variance of each token's bits, so that a token which the prior is sure of does not dominate."""


@dataclass(frozen=True)
class Score:
    """How likely a model finds one image."""

    name: str
    image: Image.Image
    """At the model's size."""
    bits: np.ndarray
    """(h, w) float64, -log2 of the probability of what is at each place, all codes of a latent together."""
    expected: np.ndarray
    """(h, w), the mean of `bits` under the prior's own predictions: their entropy."""
    variance: np.ndarray
    """(h, w), the variance of `bits` under them."""
    tokens: int
    """T, number of codes."""
    most: float
    """Bits of one place when all codes are equally likely."""

    @property
    def bits_per_token(self) -> float:
        """Mean bits of a code; above those of other images: less likely than they are."""
        return float(self.bits.sum()) / self.tokens

    @property
    def bits_per_pixel(self) -> float:
        """Bits of the codes per pixel. They describe the reconstruction, not the image to the last pixel."""
        return float(self.bits.sum()) / (self.image.width * self.image.height)

    @property
    def unusual(self) -> np.ndarray:
        """(h, w), bits above what the prior expects of its own predictions there, in standard deviations.

        A texture that cannot be predicted takes many bits everywhere; this map does not show it.
        """
        return np.asarray((self.bits - self.expected) / np.sqrt(self.variance + MIN_VARIANCE))

    def map(self, kind: str = "unusual", smoothing: float = SMOOTHING) -> np.ndarray:
        """Return `unusual` or `bits` (h, w), averaged under a Gaussian of `smoothing` tokens."""
        return smooth(self.unusual if kind == "unusual" else self.bits, smoothing)

    def heatmap(
        self, kind: str = "unusual", *, smoothing: float = SMOOTHING, scale: tuple[float, float] | None = None
    ) -> Image.Image:
        """Return the image in grey, with the map over it: yellow, orange, red, purple from less to more unlikely.

        Args:
            kind: "unusual" or "bits".
            scale: values where the colours start and end; by default the same for all images, see `SCALE`.
        """
        unit = 1.0 if kind == "unusual" else self.most
        low, high = scale or (SCALE[kind][0] * unit, SCALE[kind][1] * unit)
        return overlay(self.image, self.map(kind, smoothing), low, high)


def score(
    models: Models,
    images: ImageLike | Sequence[ImageLike],
    *,
    label: Labels = None,
    text: Texts = None,
    features: Features = None,
    image: Any = None,
    orders: int = ORDERS,
    background: str = "white",
    on_bad_image: Callable[[BadImage], object] | None = None,
    progress: Progress | None = None,
) -> Iterator[Score]:
    """Yield the score of each image, batch by batch. Images are cropped in the centre and resized to the model's size.

    Without a condition the prior is unconditional, also one that was trained with labels: a rare class then counts as
    unlikely. Conditions take one value or several, which take turns over the images.

    Args:
        label, text, features, image: conditions, as for `Pipeline.sample`.
        orders: random priors: random orders to average over. Masked priors: parts that the codes are split into at
            most, see `surprise.masked_passes`.
        background: colour behind transparent pixels.
        on_bad_image: called with each image that cannot be read, which is then left out; by default it is raised.
        progress: called with the number of images done since the last call.

    Raises:
        ConfigError: a condition that the prior does not have, or a number out of range.
        DataError: an image cannot be read.
    """
    check_background(background)
    orders = whole_number("orders", orders, 1, MAX_ORDERS)
    values = fixed_values(models.loaders, label=label, text=text, features=features, image=image)
    run = _Run(models, values, orders, background, on_bad_image, progress or (lambda _: None))
    return run.scores(to_list(images))


class _Named(NamedTuple):
    number: int
    """In the list of images."""
    name: str
    prepared: Prepared


@dataclass(frozen=True)
class _Run:
    """One call of `score`."""

    models: Models
    values: Mapping[str, list[Any]]
    orders: int
    background: str
    on_bad_image: Callable[[BadImage], object] | None
    progress: Progress

    def scores(self, images: Sequence[ImageLike]) -> Iterator[Score]:
        """Yield the scores, and say at the end how many images were cropped or resized."""
        readable, done, changed = self._readable(images), 0, 0
        while batch := list(itertools.islice(readable, batch_size(self.models.prior))):
            yield from self._score(batch)
            self.progress(len(batch))
            done, changed = done + len(batch), changed + sum(own.prepared.changed for own in batch)
        if changed:
            what = f"{changed} of {done} images were" if done > 1 else "the image was"
            logger.info("%s", changed_text(what, self.models.tokenizer.config))

    def _readable(self, images: Sequence[ImageLike]) -> Iterator[_Named]:
        for number, image in enumerate(images):
            name = str(image) if isinstance(image, (str, PathLike)) else f"image {number}"
            try:
                prepared = prepare(image, self.models.tokenizer.config, self.background, name)
            except BadImage as error:
                if self.on_bad_image is None:
                    raise
                self.on_bad_image(error)
                self.progress(1)
            else:
                yield _Named(number, name, prepared)

    @torch.no_grad()
    def _score(self, batch: Sequence[_Named]) -> Iterator[Score]:
        """Yield the scores of one batch."""
        models, config = self.models, self.models.tokenizer.config
        pixels = torch.stack([own.prepared.pixels for own in batch])
        codes = models.tokenizer.encode(pixels.to(models.tokenizer.device)).flatten(1).to(models.prior.device)
        taken = {kind: [own[n % len(own)] for n, _, _ in batch] for kind, own in self.values.items()}
        found = surprise(models.prior, codes, to_condition(models.loaders, taken), self.orders)
        h, latents, q = config.grid[0], config.grid[1] // config.codes_per_latent, config.codes_per_latent
        maps = torch.stack(found).view(3, len(batch), h, latents, q).sum(-1).numpy()  # (3, B, h, w)
        most = q * math.log2(config.codebook_size)
        for i, (_, name, prepared) in enumerate(batch):
            bits, expected, variance = maps[:, i]
            yield Score(name, prepared.image, bits, expected, variance, codes.shape[1], most)
