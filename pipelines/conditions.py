"""What a prior is told of an image besides its class: which conditions a run has, and how they are encoded."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ..data.config import DataConfig
from ..data.source import ImageSource, open_source
from ..errors import CheckpointError, ConfigError
from ..prior.config import PriorConfig, PriorRecipe
from ..tokenizer.codec import Codec
from ..tokenizer.model import Tokenizer
from .text import TextEncoder

SOURCE_FOLDER = "source"
"""In a model folder: the tokenizer of the source pictures, where it is another one."""


@dataclass(frozen=True)
class Beside:
    """What is encoded beside the images of one source, row by row."""

    sources: ImageSource | None = None
    """The pictures that the images are made from."""
    tokenizer: Tokenizer | None = None
    """The tokenizer of those."""
    size: int = 0
    """They are reduced to this many pixels first; 0: as they are."""
    text: TextEncoder | None = None
    """What makes features of the captions."""

    def codes_info(self) -> dict[str, Any]:
        """The fields of `CodesInfo` that tell of it."""
        info: dict[str, Any] = {}
        if self.sources is not None and self.tokenizer is not None:
            reduced = f" reduced to {self.size} px" if self.size else ""
            info |= {
                "source_of": self.sources.fingerprint + reduced,
                "image_sha256": self.tokenizer.weights_sha256(),
                "image_grid": self.tokenizer.config.grid,
                "image_codebook_size": self.tokenizer.config.codebook_size,
            }
        if self.text is not None:
            info |= {"text_encoder": self.text.name, "feature_shape": (self.text.slots, self.text.width)}
        return info

    def prior_config(self) -> dict[str, Any]:
        """The fields of `PriorConfig` that tell of it, and those that say what is not there."""
        source, text = self.tokenizer, self.text
        return {
            "image_grid": source.config.grid if source is not None else (),
            "image_codebook_size": source.config.codebook_size if source is not None else 0,
            "image_sha256": source.weights_sha256() if source is not None else "",
            "image_reduced_size": self.size,
            "feature_width": text.width if text is not None else 0,
            "feature_length": text.slots if text is not None else 0,
            "text_encoder": text.name if text is not None else "",
        }


NOTHING = Beside()


def choose_conditions(recipe: PriorRecipe, data: DataConfig, source: ImageSource) -> frozenset[str]:
    """What a run's prior is told: as the recipe names it, else what the data have.

    Raises:
        ConfigError: for a condition that the data or the other options do not provide.
    """
    has_source = data.conditioning_column is not None or data.conditioning_size is not None
    has_text = any(source.text(i) for i in range(min(100, len(source))))
    there = {
        "class": (len(source.class_names) > 1, "the images have no labels, or one only"),
        "text": (has_text, "the images have no captions; see --text-column"),
        "features": (has_text and recipe.text_encoder is not None, "it needs captions and --text-encoder"),
        "image": (has_source, "it needs --conditioning-column or --conditioning-size"),
        "none": (True, ""),
    }
    if recipe.conditions is None:
        return frozenset(name for name in ("class", "image") if there[name][0])
    for name in recipe.conditions:
        if not there[name][0]:
            raise ConfigError(f"conditions: {name} is not to be had: {there[name][1]}")
    return frozenset(recipe.conditions) - {"none"}


def open_beside(
    conditions: frozenset[str],
    recipe: PriorRecipe,
    data: DataConfig,
    images: tuple[ImageSource, ImageSource],
    tokenizer: Tokenizer,
) -> tuple[Beside, Beside]:
    """What is to be encoded beside the training and the held-out images."""
    text = TextEncoder(str(recipe.text_encoder), tokenizer.device) if "features" in conditions else None
    if "image" not in conditions:
        return Beside(text=text), Beside(text=text)
    if data.conditioning_column is not None and data.conditioning_size is not None:
        raise ConfigError("--conditioning-column and --conditioning-size exclude each other")
    if recipe.conditioning_model is not None:
        tokenizer = Tokenizer.from_pretrained(Path(recipe.conditioning_model) / "tokenizer", tokenizer.device)
    sources = images
    if data.conditioning_column is not None:
        # The same rows with the other column in the images' place.
        sources = open_source(dataclasses.replace(data, image_column=data.conditioning_column))
    train, held_out = (Beside(s, tokenizer, data.conditioning_size or 0, text) for s in sources)
    return train, held_out


def beside_of(
    folder: Path, config: PriorConfig, data: DataConfig, images: ImageSource, tokenizer: Tokenizer
) -> Beside:
    """What a trained prior must be told of held-out images.

    Raises:
        ConfigError: when it reads source pictures of a column, and none is named.
    """
    text = None
    if config.feature_width:
        text = TextEncoder(config.text_encoder, tokenizer.device)
    if not config.image_grid:
        return Beside(text=text)
    sources = images
    if not config.image_reduced_size:
        if data.conditioning_column is None:
            raise ConfigError(
                "this prior reads source pictures: name their column with --conditioning-column"
            )
        sources = open_source(dataclasses.replace(data, image_column=data.conditioning_column))[1]
    return Beside(sources, source_tokenizer(folder, config, tokenizer), config.image_reduced_size, text)


def source_tokenizer(folder: Path, config: PriorConfig, tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer of a prior's source pictures: the images' own, or the one in `folder/source`."""
    if config.image_sha256 == tokenizer.weights_sha256():
        return tokenizer
    found = Tokenizer.from_pretrained(folder / SOURCE_FOLDER, tokenizer.device)
    if found.weights_sha256() != config.image_sha256:
        raise CheckpointError(
            f"{folder / SOURCE_FOLDER}: the prior read codes of another tokenizer (SHA-256 {config.image_sha256}) "
            f"than this one ({found.weights_sha256()})"
        )
    return found


def encode_sources(coder: Codec, pixels: Tensor, size: int) -> Tensor:
    """Source pictures (B, C, H, W) in [-1, 1], reduced to `size` px where it is not 0, to codes (B, h' * w')."""
    if size:
        pixels = reduced(pixels, size)
    return coder.encode(pixels.to(coder.device)).flatten(1)


def reduced(pixels: Tensor, size: int) -> Tensor:
    """Pictures (B, C, H, W) brought down to `size` px and back, without their detail."""
    small = F.interpolate(pixels, (size, size), mode="bicubic", antialias=True, align_corners=False)
    return F.interpolate(small, pixels.shape[-2:], mode="bicubic", align_corners=False).clamp(-1, 1)


def describe_conditions(config: PriorConfig) -> str:
    """What a prior is told, in words."""
    named = {"class": f"{config.classes} classes"}
    return ", ".join(named.get(name, name) for name in config.conditions) or "nothing"


def in_turn(values: Sequence[Any], n: int, first: int) -> list[Any]:
    """n of the values, which take turns, from number `first` on."""
    return [values[(first + i) % len(values)] for i in range(n)]
