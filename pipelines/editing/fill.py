"""Parts of an image that are sampled anew, given the rest: completion and inpainting."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

import numpy as np
from PIL import Image

from ...data.image import check_background
from ...errors import ConfigError
from ...options import whole_number
from ...tokenizer.config import TokenizerConfig
from ...tokenizer.images import ImageLike
from ..canvas import Canvas, unchanged
from ..models import Models
from .region import Box, MaskLike, Region, box_region, masked_region, region_around, region_below
from .seam import paste_kept
from .source import read_source

logger = logging.getLogger("imgtf")

FEATHER, MAX_FEATHER = 4, 1024
"""Default of `feather`, chosen by eye at 32 to 128 px."""
KEEP = 0.5
RegionOf = Callable[[tuple[int, int], TokenizerConfig], Region]


def completion(
    models: Models,
    image: ImageLike,
    *,
    keep: float = KEEP,
    box: Box | None = None,
    feather: int = FEATHER,
    keep_decoded: bool = False,
    background: str = "white",
) -> Canvas:
    """Return a canvas that keeps the top of an image, or a box; `Sampling.stream` samples the rest.

    Args:
        keep: share of the rows that is kept, above 0 and below 1, rounded to whole rows of tokens.
        box: kept instead: x0, y0, x1, y1 in pixels of the image as it is given. Tokens that it holds in part are
            sampled.
        feather, keep_decoded, background: as for `inpainting`.

    Raises:
        ConfigError: a number or a box out of range.
        DataError: the image cannot be read, or the box keeps nothing or everything.
    """

    def region_of(size: tuple[int, int], config: TokenizerConfig) -> Region:
        return region_below(keep, size, config) if box is None else region_around(box, size, config)

    return _filling(models, image, region_of, feather, keep_decoded, background)


def inpainting(
    models: Models,
    image: ImageLike,
    *,
    mask: MaskLike | None = None,
    box: Box | None = None,
    feather: int = FEATHER,
    keep_decoded: bool = False,
    background: str = "white",
) -> Canvas:
    """Return a canvas that lacks a part of an image; `Sampling.stream` samples it, given the rest.

    A token is sampled where any of its pixels is marked. Marked pixels are never read: the result does not depend on
    them. Kept pixels stay as they are in the image at the model's size.

    Args:
        image: cropped in the centre and resized to the model's size.
        mask: of the size of the image as it is given; white is redrawn, grey from 128 on too, transparent is kept.
        box: redrawn instead: x0, y0, x1, y1 in pixels of the image as it is given.
        feather: redrawn pixels, from the border on, over which the difference between image and decoded image fades.
        keep_decoded: return the decoded image as it is, without the kept pixels.
        background: colour behind transparent pixels, a name or #rrggbb.

    Raises:
        ConfigError: neither a mask nor a box, or both; a number, box or colour out of range.
        DataError: image or mask cannot be read, their sizes differ, or the mask marks nothing.
    """
    if (mask is None) == (box is None):
        raise ConfigError("name what is redrawn: either a mask or a box")

    def region_of(size: tuple[int, int], config: TokenizerConfig) -> Region:
        return masked_region(mask, size, config) if box is None else box_region(box, size, config)  # type: ignore[arg-type]

    return _filling(models, image, region_of, feather, keep_decoded, background)


def _filling(
    models: Models, image: ImageLike, region_of: RegionOf, feather: int, keep_decoded: bool, background: str
) -> Canvas:
    """Return the canvas of an image whose codes in a region are unknown."""
    feather = whole_number("feather", feather, 0, MAX_FEATHER)
    check_background(background)
    source = read_source(models, image, background)
    region = region_of(source.given.size, models.tokenizer.config)
    if region.everything:
        logger.info("everything is redrawn: no token of the image is kept")
    codes = region.codes(source.encode(models, region.marked))
    finish = partial(paste_kept, kept=source.image, redrawn=region.redrawn, feather=feather)
    return Canvas(
        codes,
        finish=unchanged if keep_decoded else finish,
        shown=(("input", _greyed(source.image, region)),),
    )


def _greyed(image: Image.Image, region: Region) -> Image.Image:
    """Return the image with grey in the place of what is redrawn."""
    pixels = np.array(image)
    pixels[region.redrawn] = np.iinfo(pixels.dtype).max // 2 + 1
    return Image.fromarray(pixels)
