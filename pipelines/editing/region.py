"""The part of an image that is redrawn: marked in the pixels of the image as it was given, snapped to the token grid.

Shapes: H, W image at the model's size, h, w grid of latents, Y, X image as it was given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from os import PathLike

import numpy as np
import torch

from ...data.decode import BadImage
from ...data.image import largest_crop, plain, upright
from ...errors import ConfigError, DataError
from ...options import MAX_INT, whole_number
from ...tokenizer.config import TokenizerConfig
from ...tokenizer.images import ImageLike, open_image

Box = Sequence[int]
"""x0, y0, x1, y1 in pixels of the image as it was given; x1 and y1 lie outside."""
MaskLike = ImageLike
"""An image, white where it is redrawn, or an array (H, W) of bool."""


@dataclass(frozen=True)
class Region:
    """What is redrawn of one image."""

    marked: np.ndarray
    """(Y, X) bool, the pixels of the given image that nothing reads."""
    latents: np.ndarray
    """(h, w) bool, the latents whose codes are sampled: those whose pixels are marked, be it in part."""
    factor: int
    """Side of a latent in pixels of the model's size."""

    @property
    def redrawn(self) -> np.ndarray:
        """(H, W) bool, the pixels of those latents at the model's size."""
        return self.latents.repeat(self.factor, 0).repeat(self.factor, 1)

    @property
    def everything(self) -> bool:
        """Whether nothing is kept."""
        return bool(self.latents.all())

    def codes(self, codes: torch.Tensor) -> torch.Tensor:
        """Return the codes (h, w * q) of the image with -1 where they are sampled."""
        per_latent = codes.shape[1] // self.latents.shape[1]
        return codes.masked_fill(torch.from_numpy(self.latents.repeat(per_latent, 1)), -1)


def masked_region(mask: MaskLike, size: tuple[int, int], config: TokenizerConfig) -> Region:
    """Return the region of a mask: white, or more than half of it, is redrawn; transparent pixels are kept.

    Args:
        size: width and height of the image as it was given.

    Raises:
        DataError: the mask has another size, marks nothing of the image, or cannot be read.
    """
    name = str(mask) if isinstance(mask, (str, PathLike)) else "the mask"
    marked = _marked(mask, name)
    if marked.shape != size[::-1]:
        (height, width), own = marked.shape, f"{size[0]}x{size[1]}"
        raise DataError(
            f"{name} has {width}x{height} px and the image {own} px (width x height): a mask has the size of its image"
        )
    if not marked.any():
        raise DataError(f"{name} marks nothing: paint white what is to be redrawn")
    return _region(marked, config, name)


def box_region(box: Box, size: tuple[int, int], config: TokenizerConfig) -> Region:
    """Return the region of a box, which is redrawn. Raises ConfigError for a box that is not inside the image."""
    return _region(_inside(box, size), config, f"the box {_text(box)}")


def region_around(box: Box, size: tuple[int, int], config: TokenizerConfig) -> Region:
    """Return the region around a box, which is kept.

    Raises:
        ConfigError: the box is not one, or not in the image.
        DataError: it holds no whole token, or the whole image.
    """
    region = _region(~_inside(box, size), config, f"the rest of the box {_text(box)}")
    if region.everything:
        raise DataError(
            f"the box {_text(box)} holds no whole token, so that nothing would be kept: name a larger one"
        )
    return region


def region_below(share: float, size: tuple[int, int], config: TokenizerConfig) -> Region:
    """Return the region below the top rows of tokens, a share of them above 0 and below 1: at least one on each side.

    Raises:
        ConfigError: the share is out of range, or the grid has one row.
    """
    (h, w), f = config.grid, config.factor
    if not isinstance(share, Real) or not 0 < share < 1:
        raise ConfigError(f"keep must be above 0 and below 1, got {share!r}")
    if h == 1:
        raise ConfigError("the model has one row of tokens: name a box to keep")
    kept = min(max(1, round(share * h)), h - 1)
    top, _, height, _ = centre_crop(size, config)
    rows = np.asarray(np.arange(size[1]) >= np.ceil(top + kept * f * height / config.size[0]))
    latents = np.zeros((h, w // config.codes_per_latent), bool)
    latents[kept:] = True
    return Region(rows[:, None].repeat(size[0], 1), latents, f)


def centre_crop(size: tuple[int, int], config: TokenizerConfig) -> tuple[int, int, int, int]:
    """Return top, left, height, width of the crop of an image (width, height), as `data.image.cropped` takes it."""
    height, width = (max(1, round(side)) for side in largest_crop(size, config.image_size))
    return (size[1] - height) // 2, (size[0] - width) // 2, height, width


def _region(marked: np.ndarray, config: TokenizerConfig, name: str) -> Region:
    f, (H, W) = config.factor, config.size
    latents = np.asarray(_touched(marked, config).reshape(H // f, f, W // f, f).any((1, 3)))
    if not latents.any():
        raise DataError(f"{name} marks nothing in the centre of the image, which is all that the model reads")
    return Region(marked, latents, f)


def _touched(marked: np.ndarray, config: TokenizerConfig) -> np.ndarray:
    """Return (H, W) bool: the pixels at the model's size that cover a marked pixel, be it in part."""
    top, left, height, width = centre_crop((marked.shape[1], marked.shape[0]), config)
    rows = top + np.arange(config.size[0] + 1) * (height / config.size[0])
    columns = left + np.arange(config.size[1] + 1) * (width / config.size[1])
    total = np.pad(marked.cumsum(0, dtype=np.int64).cumsum(1), ((1, 0), (1, 0)))  # (Y + 1, X + 1)
    bands = total[_above(rows[1:])] - total[_below(rows[:-1])]
    count = bands[:, _above(columns[1:])] - bands[:, _below(columns[:-1])]
    return np.asarray(count > 0)


def _below(edges: np.ndarray) -> np.ndarray:
    return np.floor(edges + 1e-6).astype(int)  # an edge between two pixels may be off by rounding


def _above(edges: np.ndarray) -> np.ndarray:
    return np.ceil(edges - 1e-6).astype(int)


def _marked(mask: MaskLike, name: str) -> np.ndarray:
    """Return a mask as (Y, X) bool."""
    if isinstance(mask, (np.ndarray, torch.Tensor)) and mask.dtype in (bool, torch.bool):
        mask = np.asarray(mask).astype(np.uint8) * 255
        mask = mask[0] if mask.ndim == 3 and len(mask) == 1 else mask
    try:
        image = plain(upright(open_image(mask, name)), 1, "black")
    except BadImage as error:
        raise BadImage(error.where or name, error.why) from error
    except OSError as error:  # a PIL image that is decoded only now
        raise BadImage(name, str(error)) from error
    return np.asarray(image) > (0.5 if image.mode == "F" else 127)


def _inside(box: Box, size: tuple[int, int]) -> np.ndarray:
    """Return (Y, X) bool: the pixels of a box."""
    x0, y0, x1, y1 = _corners(box)
    if x0 >= x1 or y0 >= y1:
        raise ConfigError(f"the box {_text(box)} is empty: x1 must be above x0, and y1 above y0")
    if min(x0, y0) < 0 or x1 > size[0] or y1 > size[1]:
        width, height = size
        raise ConfigError(
            f"the box {_text(box)} is not inside the image of {width}x{height} px (width x height)"
        )
    marked = np.zeros(size[::-1], bool)
    marked[y0:y1, x0:x1] = True
    return marked


def _corners(box: Box) -> list[int]:
    if not isinstance(box, (list, tuple, np.ndarray)) or len(box) != 4:
        raise ConfigError(f"a box is x0, y0, x1, y1 in pixels, got {box!r:.60}")
    return [whole_number("a side of the box", side, -MAX_INT, MAX_INT) for side in box]


def _text(box: Box) -> str:
    return ",".join(map(str, box))
