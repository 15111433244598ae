"""Captions, read byte by byte by an encoder that is trained with the prior."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...options import bounded
from .base import ConditionConfig, Grid
from .embedding import ConditionEmbedding, check_shape

BYTES = 257
"""Byte values of UTF-8, counted from 1; 0 is padding."""
MAX_BYTES = 2**16


@dataclass(frozen=True)
class TextConfig(ConditionConfig, kind="text"):
    """Captions. The value is (B, max_bytes) int64 as `caption_bytes` gives it; a row of zeros is no caption."""

    kind: str = "text"
    max_bytes: int = bounded(128, minimum=1, maximum=MAX_BYTES)

    def length(self, grid: Grid) -> int:
        return self.max_bytes

    def embedding(self, width: int, grid: Grid) -> TextEmbedding:
        return TextEmbedding(self.max_bytes, width)

    def from_batch(self, batch: Mapping[str, Any]) -> Tensor:
        return caption_bytes(batch["text"], self.max_bytes)


class TextEmbedding(ConditionEmbedding):
    """A table of byte values."""

    def __init__(self, max_bytes: int, width: int) -> None:
        super().__init__()
        self.max_bytes = max_bytes
        self.table = nn.Embedding(BYTES, width)

    def forward(self, value: Tensor | None, dropped: Tensor) -> tuple[Tensor, Tensor]:
        text = dropped.new_zeros(len(dropped), self.max_bytes, dtype=torch.long) if value is None else value
        check_shape("text", text, (self.max_bytes,))
        return self.table(text), (text > 0) & ~dropped[:, None]


def caption_bytes(captions: Sequence[str], length: int) -> Tensor:
    """The first `length` bytes of each caption, (B, length) int64: byte + 1, padded with zeros."""
    rows = [list(caption.encode()[:length]) for caption in captions]
    return torch.tensor([[b + 1 for b in row] + [0] * (length - len(row)) for row in rows])
