"""Images that are sent with a request: bytes to a Pillow image and a mask, within limits.

Shapes: Y, X image as it was sent.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from ..data.decode import BadImage, load_image, open_image
from ..data.image import upright
from .errors import wrong

FORMATS = ("PNG", "JPEG", "MPO", "WEBP")
"""As Pillow names them; a JPEG with several pictures is an MPO."""


def read_image(data: bytes, name: str, max_pixels: int) -> Image.Image:
    """Return an image, upright and decoded. Its header is checked before anything is decoded.

    Args:
        name: the field of the form.
        max_pixels: width times height at most.

    Raises:
        ApiError: not an image of the known formats, damaged, or too large.
    """
    try:
        header = open_image(data, name)
        _check_header(header, name, max_pixels)
        return upright(load_image(data, name))
    except BadImage as error:
        raise wrong(name, error, "invalid_image") from error


def _check_header(header: Image.Image, name: str, max_pixels: int) -> None:
    """Raise ApiError for an image that must not be decoded."""
    width, height = header.size
    if header.format not in FORMATS:
        raise wrong(name, f"{name}: send a PNG, JPEG or WebP, not {header.format}", "invalid_image")
    if width * height > max_pixels:
        text = f"{name}: {width}x{height} px are too many: at most {max_pixels:,} pixels"
        raise wrong(name, text, "image_too_large")


def marked_pixels(mask: Image.Image, image: Image.Image, name: str) -> np.ndarray:
    """Return (Y, X) bool: the pixels that are replaced, those that are more than half transparent in the mask.

    Raises:
        ApiError: the mask has another size than the image, or nothing transparent.
    """
    if mask.size != image.size:
        own, other = ("x".join(map(str, one.size)) for one in (mask, image))
        text = (
            f"{name} has {own} px and the image {other} px (width x height): a mask has the size of its image"
        )
        raise wrong(name, text, "invalid_mask")
    marked = transparent(mask)
    if not marked.any():
        text = f"{name} has no transparent pixels: make transparent what is to be replaced"
        raise wrong(name, text, "invalid_mask")
    return marked


def transparent(image: Image.Image) -> np.ndarray:
    """Return (Y, X) bool: the pixels that are more than half transparent."""
    if not image.has_transparency_data:
        return np.zeros(image.size[::-1], bool)
    return np.asarray(image.convert("RGBA").getchannel("A")) < 128
