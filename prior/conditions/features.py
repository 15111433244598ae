"""Features of a pretrained text encoder (CLIP, T5): read by the condition encoder, or in front of the codes.

Shapes: B batch, n tokens, F width of the features, D width of the prior.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...data.codes import CacheColumn
from ...options import bounded
from .base import ConditionConfig, Grid
from .embedding import ConditionEmbedding, check_shape


@dataclass(frozen=True)
class FeaturesConfig(ConditionConfig, kind="features"):
    """Features of captions. The value is (B, n, F) float; rows of zeros are padding."""

    kind: str = "features"
    width: int = bounded(0, minimum=0, maximum=2**16)
    """F."""
    tokens: int = bounded(120, minimum=1, maximum=2**16)
    """n."""
    text_encoder: str = ""
    """Name or folder of the text encoder that makes them; empty when unknown."""
    prefix: bool = False
    """In front of the codes (LlamaGen's text-conditional models); else encoded for cross-attention."""

    @property
    def is_prefix(self) -> bool:
        return self.prefix

    def length(self, grid: Grid) -> int:
        return self.tokens

    def continuing(self, trained: ConditionConfig) -> ConditionConfig:
        return replace(self, prefix=getattr(trained, "prefix", False))

    def embedding(self, width: int, grid: Grid) -> ConditionEmbedding:
        make = PrefixFeatures if self.prefix else EncoderFeatures
        return make(self.tokens, self.width, width)

    def columns(self, origin: str) -> tuple[CacheColumn, ...]:
        return (CacheColumn("features", (self.tokens, self.width), origin=origin),)

    def from_batch(self, batch: Mapping[str, Any]) -> Tensor:
        return batch["features"]


class EncoderFeatures(ConditionEmbedding):
    """One linear layer, in front of the condition encoder."""

    def __init__(self, tokens: int, features: int, width: int) -> None:
        super().__init__()
        self.shape = (tokens, features)
        self.linear = nn.Linear(features, width)

    def forward(self, value: Tensor | None, dropped: Tensor) -> tuple[Tensor, Tensor]:
        weight = self.linear.weight
        features = weight.new_zeros(len(dropped), *self.shape) if value is None else value.to(weight.dtype)
        check_shape("features", features, self.shape)
        return self.linear(features), (features != 0).any(-1) & ~dropped[:, None]


class PrefixFeatures(ConditionEmbedding):
    """Two layers around a GELU, to tokens in front of the codes (PixArt's, LlamaGen's).

    `null` stands for "no features". Padding stays padding, which no other token attends to.
    """

    def __init__(self, tokens: int, features: int, width: int) -> None:
        super().__init__()
        self.null = nn.Parameter(torch.randn(tokens, features) / features**0.5)
        self.up = nn.Linear(features, width, bias=False)
        self.down = nn.Linear(width, width, bias=False)

    def forward(self, value: Tensor | None, dropped: Tensor) -> tuple[Tensor, Tensor]:
        null = self.null
        features = null.expand(len(dropped), -1, -1) if value is None else value.to(null.dtype)
        check_shape("features", features, tuple(null.shape))
        visible = (features != 0).any(-1)  # (B, n)
        features = torch.where(dropped[:, None, None], null * visible[..., None], features)
        return self.down(F.gelu(self.up(features), approximate="tanh")), visible

    def unconditional(self, value: Tensor) -> Tensor:
        """No features, of the same length as the given ones."""
        return self.null * (value.to(self.null) != 0).any(-1, keepdim=True)
