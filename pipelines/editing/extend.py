"""Canvases larger or smaller than the trained size: outpainting, and images of any size.

Shapes: H, W picture in pixels, h, w grid of latents, q codes per latent, f downsampling factor.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from os import PathLike

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...data.decode import BadImage
from ...data.image import check_background, to_pil, transform, upright
from ...errors import ConfigError, DataError
from ...options import MAX_INT, Size, sides_of, size_text, to_size, whole_number
from ...tokenizer.images import ImageLike, open_image
from ...tokenizer.tiling import encode_tiled, padded
from ..canvas import Canvas
from ..models import Models
from .fill import FEATHER, MAX_FEATHER
from .seam import paste_kept

logger = logging.getLogger("imgtf")

MOST_PIXELS = 2**27
"""Largest picture."""
Sides = tuple[int, int]
"""Height and width in pixels."""


def blank(models: Models, size: Size) -> Canvas:
    """Return an empty canvas of any size in pixels; `Sampling.stream` samples it.

    Sides need not be multiples of f: the next larger grid is sampled, and the picture cut to the size.

    Args:
        size: side of a square, or (height, width).

    Raises:
        ConfigError: the size is not one, or too large.
    """
    height, width = _checked_size(size)
    config = models.tokenizer.config
    h, w = -(-height // config.factor), -(-width // config.factor)
    empty = torch.full((h, w * config.codes_per_latent), -1)
    return Canvas(empty, finish=partial(_cut, box=(0, 0, width, height)))


def outpainting(
    models: Models,
    image: ImageLike,
    *,
    left: int = 0,
    right: int = 0,
    top: int = 0,
    bottom: int = 0,
    size: Size | None = None,
    feather: int = FEATHER,
    keep_decoded: bool = False,
    background: str = "white",
) -> Canvas:
    """Return a canvas that continues an image beyond its borders; `Sampling.stream` samples what is new.

    The image is not cropped. It is resized so that its shorter side is the model's: the model knows things at that
    scale. All other sizes are pixels of that scale.

    Args:
        left, right, top, bottom: pixels to add on each side.
        size: of the whole picture instead, with the image in the centre: a side, or (height, width).
        feather: new pixels, from the border on, over which the difference between image and decoded image fades.
        keep_decoded: return the decoded picture as it is, without the pixels of the image.
        background: colour behind transparent pixels, a name or #rrggbb.

    Raises:
        ConfigError: nothing to add, or a number, size or colour out of range.
        DataError: the image cannot be read, or is larger than `size`.
    """
    feather = whole_number("feather", feather, 0, MAX_FEATHER)
    check_background(background)
    name = str(image) if isinstance(image, (str, PathLike)) else "the image"
    pixels = _read(models, image, background, name)
    sides = (int(pixels.shape[2]), int(pixels.shape[3]))
    added = _added({"left": left, "right": right, "top": top, "bottom": bottom}, size, sides, name)
    layout = Layout.around(sides, added, models.tokenizer.config.factor)
    kept = layout.place(to_pil(pixels[0], models.tokenizer.config.bit_depth))
    return Canvas(
        layout.codes(_encode(models, pixels), models.tokenizer.config.codes_per_latent),
        finish=partial(_finish, layout=layout, kept=None if keep_decoded else kept, feather=feather),
        shown=(("input", _cut(kept, layout.picture)),),
    )


@dataclass(frozen=True)
class Layout:
    """Where an image lies on a canvas. It begins at a token, so that its own tokens are those of the canvas."""

    grid: Sides
    """(h, w) in latents."""
    factor: int
    image: tuple[int, int, int, int]
    """Left, top, right, bottom of the image in pixels of the canvas."""
    picture: tuple[int, int, int, int]
    """The same of the picture: what is asked for."""

    @classmethod
    def around(cls, sides: Sides, added: tuple[int, int, int, int], f: int) -> Layout:
        """Return the layout of an image (H, W) with pixels added left, top, right and bottom."""
        left, top, right, bottom = added
        x, y = -(-left // f) * f, -(-top // f) * f
        image = (x, y, x + sides[1], y + sides[0])
        picture = (x - left, y - top, image[2] + right, image[3] + bottom)
        return cls((-(-picture[3] // f), -(-picture[2] // f)), f, image, picture)

    def codes(self, codes: Tensor, q: int) -> Tensor:
        """Return the codes (h, w * q) of the canvas: those of the image, -1 elsewhere.

        A token at the image's right or lower border that holds pixels beyond it is sampled where the picture goes on.
        """
        f, (left, top, right, bottom) = self.factor, self.image
        rows = (bottom - top) // f if self.picture[3] > bottom else codes.shape[0]
        columns = ((right - left) // f if self.picture[2] > right else codes.shape[1] // q) * q
        canvas = torch.full((self.grid[0], self.grid[1] * q), -1)
        part = canvas[top // f :, left // f * q :]
        part[:rows, :columns] = codes[:rows, :columns]
        return canvas

    def place(self, image: Image.Image) -> Image.Image:
        """Return the canvas with the image on it, and grey elsewhere."""
        pixels = np.asarray(image)
        shape = (self.grid[0] * self.factor, self.grid[1] * self.factor, *pixels.shape[2:])
        canvas = np.full(shape, np.iinfo(pixels.dtype).max // 2 + 1, pixels.dtype)
        left, top, right, bottom = self.image
        canvas[top:bottom, left:right] = pixels
        return Image.fromarray(canvas)

    @property
    def new(self) -> np.ndarray:
        """(h * f, w * f) bool, the pixels outside the image."""
        mask = np.ones((self.grid[0] * self.factor, self.grid[1] * self.factor), bool)
        left, top, right, bottom = self.image
        mask[top:bottom, left:right] = False
        return mask


def _finish(decoded: Image.Image, layout: Layout, kept: Image.Image | None, feather: int) -> Image.Image:
    """Return the picture of a decoded canvas, with the kept pixels pasted back."""
    if kept is not None:
        decoded = paste_kept(decoded, kept, layout.new, feather)
    return _cut(decoded, layout.picture)


def _cut(image: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    return image if box == (0, 0, *image.size) else image.crop(box)


def _added(added: dict[str, int], size: Size | None, sides: Sides, name: str) -> tuple[int, int, int, int]:
    """Return the pixels to add left, top, right and bottom of an image (H, W)."""
    added = {side: whole_number(side, pixels, 0, MAX_INT) for side, pixels in added.items()}
    if size is None:
        if not any(added.values()):
            raise ConfigError(
                "name what to add: left, right, top or bottom, or the size of the whole picture"
            )
        _checked_size((sides[0] + added["top"] + added["bottom"], sides[1] + added["left"] + added["right"]))
        return added["left"], added["top"], added["right"], added["bottom"]
    if any(added.values()):
        raise ConfigError("name either the size of the whole picture or what to add, not both")
    down, across = (own - side for own, side in zip(_checked_size(size), sides, strict=True))
    if min(down, across) < 0 or not down + across:
        raise DataError(
            f"{name} has {size_text(sides)} px (height x width) at the model's scale: name a larger size than that, "
            f"not {size_text(size)}"
        )
    return across // 2, down // 2, across - across // 2, down - down // 2


def _checked_size(size: Size) -> Sides:
    """Return height and width. Raises ConfigError unless the size is one, and not too large."""
    sides = sides_of(to_size(size))
    height, width = (whole_number("a side of the size", side, 1, MAX_INT) for side in sides)
    if height * width > MOST_PIXELS:
        raise ConfigError(
            f"a picture of {size_text((height, width))} px (height x width) has more than {MOST_PIXELS:,} pixels"
        )
    return height, width


def _read(models: Models, image: ImageLike, background: str, name: str) -> Tensor:
    """Return an image (1, C, H, W), resized so that its shorter side is the model's."""
    config = models.tokenizer.config
    given = upright(open_image(image, name))
    scale = max(own / side for own, side in zip(config.size, given.size[::-1], strict=True))
    sides = (max(1, round(given.height * scale)), max(1, round(given.width * scale)))
    _checked_size(sides)
    if sides != (given.height, given.width):
        before, after = size_text((given.height, given.width)), size_text(sides)
        logger.info(
            "%s was resized from %s to %s px (height x width), the model's scale", name, before, after
        )
    try:
        return transform(given, sides, config.channels, background)[None]
    except BadImage as error:
        raise BadImage(name, error.why) from error
    except OSError as error:  # a PIL image that is decoded only now
        raise BadImage(name, str(error)) from error


@torch.no_grad()
def _encode(models: Models, pixels: Tensor) -> Tensor:
    """Return the codes (h, w * q) of an image of any size, continued to whole tokens."""
    tokenizer = models.tokenizer
    return encode_tiled(tokenizer, padded(pixels.to(tokenizer.device), tokenizer.config.factor))[0].cpu()
