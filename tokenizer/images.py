"""Images as people have them (PIL, files, arrays, tensors) to tensors for a tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..data.decode import BadImage, load_image
from ..data.image import transform
from ..errors import DataError
from .config import TokenizerConfig

ImageLike = Image.Image | str | PathLike[str] | np.ndarray | Tensor
"""A PIL image, the path of an image file, an array (H, W) or (H, W, C) of uint8, uint16 (grey) or floats in [0, 1], or
a tensor (C, H, W) of uint8 or floats in [-1, 1]."""
SINGLE = (Image.Image, str, PathLike)


def to_list(images: ImageLike | Sequence[ImageLike]) -> list[ImageLike]:
    """Return one image or several as a list; arrays and tensors with a batch dimension are several.

    Raises:
        DataError: there are no images, or one is of no type of `ImageLike`.
    """
    single = isinstance(images, SINGLE) or (isinstance(images, (np.ndarray, Tensor)) and images.ndim < 4)
    if not single and not isinstance(images, (Sequence, np.ndarray, Tensor)):
        raise DataError(f"expected an image or a list of images, got {type(images).__name__}")
    given: list[Any] = [images] if single else list(images)  # type: ignore[arg-type]
    if not given:
        raise DataError("no images given")
    for i, image in enumerate(given):
        if not isinstance(image, (*SINGLE, np.ndarray, Tensor)):
            raise DataError(f"image {i} of the list is {type(image).__name__}: {KINDS}")
    return given


KINDS = "give PIL images, paths, arrays (H, W, C) or tensors (C, H, W)"


def open_image(image: ImageLike, where: str = "image") -> Image.Image:
    """Return an image of any kind as a PIL image; `where` names it in errors.

    Raises:
        DataError: a file is missing or unreadable, or an array or tensor has another shape, type or range.
    """
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, (np.ndarray, Tensor)):
        return _from_array(image if isinstance(image, np.ndarray) else _to_array(image, where), where)
    return load_image(str(image), str(image))


def _to_array(image: Tensor, where: str) -> np.ndarray:
    """Return a tensor (C, H, W), floats in [-1, 1], as an array (H, W, C), floats in [0, 1]."""
    if image.dim() != 3:
        raise DataError(f"{where}: a tensor must be (C, H, W), got {tuple(image.shape)}")
    pixels = image.detach().cpu().permute(1, 2, 0)
    return ((pixels.float() + 1) / 2 if pixels.is_floating_point() else pixels).numpy()


def _from_array(pixels: np.ndarray, where: str) -> Image.Image:
    pixels = pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    grey = pixels.ndim == 2
    if not grey and (pixels.ndim != 3 or pixels.shape[2] not in (3, 4)):
        raise DataError(f"{where}: an array must be (H, W) or (H, W, 1, 3 or 4), got {pixels.shape}")
    if pixels.dtype.kind == "f":
        if not (pixels.min(initial=0) >= -1e-6 and pixels.max(initial=0) <= 1 + 1e-6):  # also for NaN
            raise DataError(f"{where}: floats must be in [0, 1] for arrays and in [-1, 1] for tensors")
        top, kind = (65535, np.uint16) if grey else (255, np.uint8)
        pixels = (pixels.clip(0, 1) * top).round().astype(kind)
    if pixels.dtype != np.uint8 and not (grey and pixels.dtype == np.uint16):
        raise DataError(f"{where}: pixels must be uint8, uint16 (grey) or floats, got {pixels.dtype}")
    return Image.fromarray(np.ascontiguousarray(pixels))


def load_batch(images: Sequence[ImageLike], config: TokenizerConfig, background: str) -> Tensor:
    """Return the images as (B, C, H, W) in [-1, 1]: centre-cropped and resized to the tokenizer's image size.

    Raises:
        DataError: an image is missing, unreadable, or has pixels outside the range of its mode.
    """
    return torch.stack([_load(image, i, config, background) for i, image in enumerate(images)])


def _load(image: ImageLike, i: int, config: TokenizerConfig, background: str) -> Tensor:
    where = str(image) if isinstance(image, (str, PathLike)) else f"image {i} of the list"
    return to_model_size(open_image(image, where), config, background, where)


def to_model_size(image: Image.Image, config: TokenizerConfig, background: str, where: str) -> Tensor:
    """Return an image (C, H, W) in [-1, 1], centre-cropped and resized; `where` names it in errors.

    Raises:
        DataError: it cannot be decoded, or has pixels outside the range of its mode.
    """
    try:
        return transform(image, config.image_size, config.channels, background)
    except BadImage as error:
        raise BadImage(where, error.why) from error
    except OSError as error:  # a PIL image that is decoded only now
        raise BadImage(where, str(error)) from error
