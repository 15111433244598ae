"""PIL images and image files to tensors for a tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import cast

import torch
from PIL import Image
from torch import Tensor

from ..data.decode import BadImage, load_image
from ..data.image import transform
from ..errors import DataError
from .config import TokenizerConfig

ImageLike = Image.Image | str | PathLike[str]
"""A PIL image, or the path of an image file."""


def to_list(images: ImageLike | Sequence[ImageLike]) -> list[ImageLike]:
    """Return one image or several as a list.

    Raises:
        DataError: there are no images, or one is neither a PIL image nor a path.
    """
    single = isinstance(images, (Image.Image, str, PathLike))
    if not single and not isinstance(images, Sequence):
        raise DataError(
            f"expected a PIL image, a path or a list of these, got {type(images).__name__}; for tensors use encode"
        )
    given = [cast(ImageLike, images)] if single else list(cast(Sequence[ImageLike], images))
    if not given:
        raise DataError("no images given")
    for i, image in enumerate(given):
        if not isinstance(image, (Image.Image, str, PathLike)):
            raise DataError(f"image {i} of the list is {type(image).__name__}, not a PIL image or a path")
    return given


def load_batch(images: Sequence[ImageLike], config: TokenizerConfig, background: str) -> Tensor:
    """Return the images as (B, C, H, W) in [-1, 1]: centre-cropped and resized to the tokenizer's image size.

    Raises:
        DataError: an image is missing, unreadable, or has pixels outside the range of its mode.
    """
    return torch.stack([_load(image, i, config, background) for i, image in enumerate(images)])


def _load(image: ImageLike, i: int, config: TokenizerConfig, background: str) -> Tensor:
    where = f"image {i} of the list" if isinstance(image, Image.Image) else str(image)
    pil = image if isinstance(image, Image.Image) else load_image(str(image), where)
    try:
        return transform(pil, config.image_size, config.channels, background)
    except BadImage as error:
        raise BadImage(where, error.why) from error
    except OSError as error:  # a PIL image that is decoded only now
        raise BadImage(where, str(error)) from error
