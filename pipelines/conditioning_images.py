"""The loader of conditioning images: label maps, grey or low-resolution versions of the images.

Shapes: B batch, C channels, H, W image, T codes per conditioning image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..data.codes import CacheColumn
from ..data.config import ConditionDataConfig, DataConfig
from ..data.decode import load_image
from ..data.image import largest_crop, transform, upright
from ..data.source import ImageSource, open_source
from ..errors import CheckpointError, ConfigError
from ..prior.conditions.image import ImageConfig
from ..runtime.repository import model_folder
from ..tokenizer.codec import Codec
from ..tokenizer.model import Tokenizer
from .condition_loader import ConditionLoader, EncodeCrops, Given, Read, RunData, as_list

IMAGE_TOKENIZER = "conditioning"
"""In a model folder: the tokenizer of the conditioning images, where it is another one."""


class ImageLoader(ConditionLoader):
    """Conditioning images: of a column of their own, or the images themselves at a reduced size."""

    kind = "image"
    options = ("conditioning_column", "conditioning_size", "conditioning_model")
    config: ImageConfig

    def __init__(self, config: ImageConfig, tokenizer: Tokenizer, folder: Path | None = None) -> None:
        super().__init__(config, tokenizer, folder)
        self.sources: dict[str, ImageSource] = {}
        """By split, where the conditioning images have a column of their own."""
        self.codec: Codec | None = None

    @classmethod
    def missing(cls, run: RunData) -> str:
        named = run.columns.conditioning_column is not None or run.columns.conditioning_size is not None
        return "" if named else "it needs --conditioning-column or --conditioning-size"

    @classmethod
    def from_run(cls, run: RunData) -> ImageLoader:
        """The loader for a new prior.

        Raises:
            ConfigError: both kinds of conditioning images are asked for, or larger ones than the images, or the
                shape of another tokenizer's images is not that of the images.
        """
        columns, tokenizer = run.columns, run.tokenizer
        if columns.conditioning_column is not None and columns.conditioning_size is not None:
            raise ConfigError("--conditioning-column and --conditioning-size exclude each other")
        reduced, side = columns.conditioning_size or 0, min(tokenizer.config.size)
        if reduced > side:
            raise ConfigError(
                f"--conditioning-size {reduced} is larger than the model's images, {side} px: lower it"
            )
        if run.recipe.conditioning_model is not None:
            folder = model_folder(run.recipe.conditioning_model, parts=("tokenizer",)) / "tokenizer"
            tokenizer = Tokenizer.from_pretrained(folder, tokenizer.device)
            _check_shape(folder, tokenizer.config.size, run.tokenizer.config.size)
        config = ImageConfig(
            grid=tokenizer.config.grid,
            codebook_size=tokenizer.config.codebook_size,
            tokenizer_sha256=tokenizer.codes_sha256(),
            reduced_size=reduced,
        )
        loader = cls(config, run.tokenizer)
        loader.__dict__["image_tokenizer"] = tokenizer
        return loader

    @cached_property
    def image_tokenizer(self) -> Tokenizer:
        """The tokenizer of the conditioning images: the images' own, or the one in the model's folder.

        Raises:
            CheckpointError: it is missing, or not the one that the prior was trained with.
        """
        expected = self.config.tokenizer_sha256
        if self.tokenizer.made_codes_of(expected):
            return self.tokenizer
        if self.folder is None:
            raise CheckpointError(
                f"this prior reads conditioning images encoded by another tokenizer (SHA-256 {expected}): "
                f"load the pipeline from its model folder"
            )
        folder = self.folder / IMAGE_TOKENIZER
        found = Tokenizer.from_pretrained(folder, self.tokenizer.device)
        if not found.made_codes_of(expected):
            raise CheckpointError(
                f"{folder}: the prior was trained with another tokenizer (SHA-256 {expected}) than this one "
                f"({found.codes_sha256()})"
            )
        return found

    def use(self, tokenizer: Tokenizer | None) -> None:
        """Take this tokenizer for the conditioning images, or find the right one. Raises CheckpointError."""
        if tokenizer is not None and tokenizer.made_codes_of(self.config.tokenizer_sha256):
            self.__dict__["image_tokenizer"] = tokenizer.eval()
        _ = self.image_tokenizer

    def open(self, data: DataConfig, columns: ConditionDataConfig) -> None:
        if self.config.reduced_size:
            return
        if columns.conditioning_column is None:
            raise ConfigError(
                "this prior reads conditioning images: name their column with --conditioning-column"
            )
        # The same rows, with the conditioning images in the images' place.
        self.sources = {source.split: source for source in open_source(data, columns.conditioning_column)}

    def _source(self, source: ImageSource) -> ImageSource:
        """The conditioning images alongside the images of a source."""
        return source if self.config.reduced_size else self.sources[source.split]

    def tokenizers(self) -> list[Tokenizer]:
        return [self.image_tokenizer]

    def cache_columns(self, source: ImageSource) -> tuple[CacheColumn, ...]:
        size, own = self.config.reduced_size, self._source(source)
        reduced = f" reduced to {size} px" if size else ""
        return self.config.columns(f"{own.fingerprint}{reduced} {self.image_tokenizer.codes_sha256()}")

    def batches(self, source: ImageSource, read: Read, precision: str) -> Iterator[Any]:
        self.codec = Codec(self.image_tokenizer, precision)
        return read(self._source(source), self.image_tokenizer)

    def encode(self, texts: Sequence[str], batch: Any, encode_crops: EncodeCrops) -> dict[str, np.ndarray]:
        assert self.codec is not None  # `batches` came first
        encode = partial(encode_reduced, self.codec, size=self.config.reduced_size)
        return encode_crops("image", encode, batch["image"])

    def values(self, given: Given) -> list[Image.Image]:
        return [_loaded(one) for one in as_list(given.get("image"), "image")]

    def tensor(self, values: Sequence[Image.Image]) -> Tensor:
        once = {id(image): image for image in values}  # several variants of one image
        pixels = torch.stack([self.pixels(image) for image in once.values()])
        codes = encode_reduced(Codec(self.image_tokenizer, "fp32"), pixels, size=0)
        return codes[[list(once).index(id(image)) for image in values]]

    def pixels(self, image: Image.Image) -> Tensor:
        """Return a conditioning image as its tokenizer reads it, (C, H, W) in [-1, 1].

        An image that already has the reduced size is enlarged only: reduced again, it would be more blurred than those
        of the training.
        """
        config, size = self.image_tokenizer.config, self.config.reduced_size
        if size and min(largest_crop(upright(image).size, config.size)) <= size:
            small = transform(image, reduced_sides(config.size, size), config.channels)
            return enlarged(small[None], config.size)[0]
        pixels = transform(image, config.size, config.channels)
        return reduced(pixels[None], size)[0] if size else pixels


def encode_reduced(codec: Codec, pixels: Tensor, size: int) -> Tensor:
    """Conditioning images (B, C, H, W) in [-1, 1], reduced to a shorter side of `size` px unless 0, to codes (B, T)."""
    if size:
        pixels = reduced(pixels, size)
    return codec.encode(pixels.to(codec.device)).flatten(1)


def reduced(pixels: Tensor, size: int) -> Tensor:
    """Images (B, C, H, W) reduced to a shorter side of `size` px and enlarged again, so that their detail is gone."""
    whole = (pixels.shape[-2], pixels.shape[-1])
    sides = reduced_sides(whole, size)
    return enlarged(F.interpolate(pixels, sides, mode="bicubic", antialias=True, align_corners=False), whole)


def reduced_sides(whole: tuple[int, int], size: int) -> tuple[int, int]:
    """Return height and width of an image (H, W) whose shorter side is reduced to `size` px."""
    H, W = whole
    return round(H * size / min(whole)), round(W * size / min(whole))


def enlarged(small: Tensor, whole: tuple[int, int]) -> Tensor:
    """Return reduced images (B, C, h, w) enlarged to (H, W), (B, C, H, W) in [-1, 1]."""
    return F.interpolate(small, whole, mode="bicubic", align_corners=False).clamp(-1, 1)


def _check_shape(folder: Path, size: tuple[int, int], wanted: tuple[int, int]) -> None:
    """ConfigError unless both sizes have the same ratio of height to width: else the crops show different parts."""
    if size[0] * wanted[1] != size[1] * wanted[0]:
        own, other = ("x".join(map(str, sides)) for sides in (size, wanted))
        raise ConfigError(
            f"{folder}: its images have {own} px (height x width), those of the model {other} px; conditioning images "
            f"need the same ratio"
        )


def _loaded(image: Any) -> Image.Image:
    return image if isinstance(image, Image.Image) else load_image(str(image), str(image))
