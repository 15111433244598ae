"""How a prior is trained: its token cache, its losses. No heavy imports."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ConfigError
from ..options import option


@dataclass(frozen=True)
class CacheRecipe:
    """What a token cache holds besides codes: the conditions of the prior that will read it."""

    conditions: tuple[str, ...] | None = option(
        None,
        "label, text, features, image or none; several with commas.",
        auto="label and image where the data have them",
        group="conditions",
        common=True,
    )
    caption_bytes: int = option(
        128, "Longest caption in bytes; longer ones are cut.", minimum=1, maximum=2**16, group="conditions"
    )
    text_encoder: str | None = option(
        None, "Text encoder for `features`: a transformers name or folder.", auto="none", group="conditions"
    )
    conditioning_model: str | None = option(
        None,
        "Model whose tokenizer encodes the conditioning images.",
        auto="this model's tokenizer",
        group="conditions",
    )
    crops_per_image: int = option(
        1,
        "Crops of each image in the token cache (needs --crop random or shift).",
        minimum=1,
        maximum=1000,
        group="augmentation",
    )


@dataclass(frozen=True)
class PriorRecipe:
    """What training does to codes and losses."""

    code_noise: float = option(
        0.0,
        "Fraction of input codes replaced by random codes in training.",
        minimum=0,
        maximum=1,
        group="losses",
    )
    label_smoothing: float = option(
        0.0, "Label smoothing of the cross entropy.", minimum=0, maximum=1, group="losses"
    )
    z_loss: float = option(
        0.0, "Weight of the squared log-partition, which keeps logits small.", minimum=0, group="losses"
    )
    anneal: tuple[float, ...] = option(
        (),
        "random: start and end of the change to raster order, e.g. 0.5,0.75 (RAR).",
        minimum=0,
        maximum=1,
        group="losses",
    )

    def __post_init__(self) -> None:
        if self.anneal and (len(self.anneal) != 2 or self.anneal[0] > self.anneal[1]):
            raise ConfigError(f"anneal takes two rising fractions of the run, got {list(self.anneal)}")
