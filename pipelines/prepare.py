"""Images of a person as a tokenizer reads them, and the conditions that were given with them.

Shapes: C channels, H, W image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

from PIL import Image
from torch import Tensor

from ..data.image import to_pil, upright
from ..options import size_text
from ..tokenizer.config import TokenizerConfig
from ..tokenizer.images import ImageLike, open_image, to_model_size
from .condition_loader import ConditionLoader, given_values


@dataclass(frozen=True)
class Prepared:
    """One image at the size of a tokenizer."""

    pixels: Tensor
    """(C, H, W) in [-1, 1]."""
    original: tuple[int, int]
    """Width and height of the image as it was given."""
    bit_depth: int

    @property
    def changed(self) -> bool:
        """Whether the image was cropped or resized."""
        return self.original != (self.pixels.shape[2], self.pixels.shape[1])

    @property
    def image(self) -> Image.Image:
        """The image that the tokenizer reads."""
        return to_pil(self.pixels, self.bit_depth)


def prepare(image: ImageLike, config: TokenizerConfig, background: str, where: str = "image") -> Prepared:
    """Return an image cropped in the centre and resized to the size of a tokenizer.

    Args:
        background: colour behind transparent pixels.
        where: names the image in errors; a path names itself.

    Raises:
        DataError: a file is missing or unreadable, or pixels have another shape, type or range.
        ConfigError: the tokenizer has other than 1 or 3 channels, or the colour is unknown.
    """
    where = str(image) if isinstance(image, (str, PathLike)) else where
    pil = open_image(image, where)
    pixels = to_model_size(pil, config, background, where)
    return Prepared(pixels, upright(pil).size, config.bit_depth)


def changed_text(what: str, config: TokenizerConfig) -> str:
    """Say that an image, or several, had another size than the model's."""
    return f"{what} cropped and resized to the model's {size_text(config.image_size)} pixels"


def fixed_values(loaders: Sequence[ConditionLoader], **given: Any) -> dict[str, list[Any]]:
    """Return the values of each condition that is given; the others stay unconditional.

    Raises:
        ConfigError: for a condition that the prior does not have, or a value that it does not know.
    """
    named = {name for name, value in given.items() if value is not None}
    values = given_values(loaders, given)
    wanted = named | ({"features"} if "text" in named else set())
    return {kind: own for kind, own in values.items() if kind in wanted}
