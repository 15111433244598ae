"""An image to be edited, at the model's size, and its codes.

Shapes: C channels, H, W image, h, w grid, Y, X image as it was given.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from os import PathLike

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ...data.image import plain, upright
from ...tokenizer.images import ImageLike, open_image
from ..models import Models
from ..prepare import Prepared, changed_text, prepare

logger = logging.getLogger("imgtf")


@dataclass(frozen=True)
class Source:
    """One image to be edited."""

    given: Image.Image
    """As it was given, upright."""
    prepared: Prepared
    """At the model's size."""
    background: str

    @property
    def image(self) -> Image.Image:
        """The image at the model's size."""
        return self.prepared.image

    @torch.no_grad()
    def encode(self, models: Models, hidden: np.ndarray | None = None) -> Tensor:
        """Return the codes (h, w) int64 on the CPU.

        Args:
            hidden: (Y, X) bool, pixels that are filled with the colours around them first. A code depends on pixels
                far from its own, so that codes of the rest would tell what was there.
        """
        config, prepared = models.tokenizer.config, self.prepared
        if hidden is not None:
            flat = plain(self.given, config.channels, self.background)
            prepared = prepare(without(flat, hidden), config, self.background)
        return models.tokenizer.encode(prepared.pixels[None].to(models.tokenizer.device))[0].cpu()


def read_source(models: Models, image: ImageLike, background: str, name: str = "the image") -> Source:
    """Return an image to be edited, and say where it is cropped or resized.

    Args:
        background: colour behind transparent pixels.
        name: of the image in errors; a path names itself.

    Raises:
        DataError: it is missing, unreadable, or of an unknown shape or type.
        ConfigError: an unknown colour.
    """
    name = str(image) if isinstance(image, (str, PathLike)) else name
    config = models.tokenizer.config
    given = upright(open_image(image, name))
    prepared = prepare(given, config, background, name)
    if prepared.changed:
        logger.info("%s", changed_text(f"{name} ({given.width}x{given.height} px) was", config))
    return Source(given, prepared, background)


def without(image: Image.Image, hidden: np.ndarray) -> Image.Image:
    """Return an image (L, RGB or F in [0, 1]) whose hidden pixels (Y, X) are filled with the colours around them."""
    pixels = np.asarray(image)
    values = torch.from_numpy(np.atleast_3d(pixels).astype(np.float32)).permute(2, 0, 1)
    filled = fill_in(values, torch.from_numpy(~hidden).float()[None]).permute(1, 2, 0).numpy()
    if image.mode == "F":
        return Image.fromarray(filled[:, :, 0].clip(0, 1))
    filled = filled.round().astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(filled if image.mode == "RGB" else filled[:, :, 0]))


def fill_in(values: Tensor, known: Tensor) -> Tensor:
    """Return values (C, H, W) where known (1, H, W) is 1, and a smooth continuation of them where it is 0.

    Unknown values come from the image at half the size, whose pixels are the means of the known ones, and so on (the
    pull-push algorithm, Gortler et al. 1996, section 3.3). Without any known value all are 0.
    """
    if known.all() or max(values.shape[1:]) == 1:
        return values * known
    weight = F.avg_pool2d(known, 2, ceil_mode=True)
    mean = F.avg_pool2d(values * known, 2, ceil_mode=True) / weight.clamp_min(1e-9)
    coarse = fill_in(mean, (weight > 0).to(known.dtype))
    smooth = F.interpolate(coarse[None], values.shape[1:], mode="bilinear", align_corners=False)[0]
    return torch.where(known > 0, values, smooth)
