"""A conditioning image (label map, grey or low-resolution version), as its own grid of codes.

Shapes: B batch, H', W' grid of the conditioning image's codes, h', w' grid of its tokens, n = h'*w', h, w grid of the
prior, T = h*w tokens, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...data.codes import CacheColumn
from ...errors import ConfigError
from ...nn.rotary import grid_positions
from ...options import bounded
from .base import ConditionConfig, Grid
from .embedding import ConditionEmbedding, check_shape


@dataclass(frozen=True)
class ImageConfig(ConditionConfig, kind="image"):
    """Codes of a conditioning image. The value is (B, H', W') or (B, H' * W') int64; -1 is none."""

    kind: str = "image"
    grid: tuple[int, ...] = bounded((), minimum=1, maximum=2**20, least=2, most=2)
    """(H', W')."""
    codebook_size: int = bounded(0, minimum=1, maximum=2**20)
    tokenizer_sha256: str = ""
    """Identity of the tokenizer that made the codes."""
    reduced_size: int = bounded(0, minimum=0, maximum=2**14)
    """The conditioning image is the image itself reduced to this many pixels; 0: an image of its own."""

    def patch(self, grid: Grid) -> tuple[int, int]:
        """Codes, down and across, that one token holds: all codes of a grid position where they are finer and fit."""
        if any(own % prior for own, prior in zip(self.grid, grid, strict=True)):
            return 1, 1
        return self.grid[0] // grid[0], self.grid[1] // grid[1]

    def cells(self, grid: Grid) -> tuple[int, int]:
        """Grid (h', w') of the tokens."""
        down, across = self.patch(grid)
        return self.grid[0] // down, self.grid[1] // across

    def length(self, grid: Grid) -> int:
        return prod(self.cells(grid))

    def continuing(self, trained: ConditionConfig) -> ConditionConfig:
        if getattr(trained, "tokenizer_sha256", "") not in ("", self.tokenizer_sha256):
            raise ConfigError(
                "the prior reads conditioning images encoded by another tokenizer: name its model with "
                "--conditioning-model"
            )
        return self

    def embedding(self, width: int, grid: Grid) -> ImageEmbedding:
        return ImageEmbedding(self, width, grid)

    def columns(self, origin: str) -> tuple[CacheColumn, ...]:
        return (CacheColumn("image", (prod(self.grid),), self.codebook_size, origin, per_crop=True),)

    def from_batch(self, batch: Mapping[str, Any]) -> Tensor:
        return batch["image"]


class ImageEmbedding(ConditionEmbedding):
    """A table of codes; the codes of a patch go through one matrix, as the patches of a ViT do.

    A conditioning image with a finer grid than the prior's costs no more tokens than the prior has.
    """

    def __init__(self, config: ImageConfig, width: int, grid: Grid) -> None:
        super().__init__()
        self.config, self.grid = config, grid
        size = prod(config.patch(grid))
        self.table = nn.Embedding(config.codebook_size, width)
        self.join = nn.Linear(size * width, width, bias=False) if size > 1 else nn.Identity()
        self.aligned = nn.Linear(width, width, bias=False)

    def initialise(self) -> None:
        # `aligned` reads normalised states: its outputs start as large as the embeddings that they are added to.
        # From zero it is learned ten times later; fifty times larger drowns the previous code (docs/LOG.md).
        nn.init.normal_(self.aligned.weight, std=0.02 / self.aligned.in_features**0.5)

    def forward(self, value: Tensor | None, dropped: Tensor) -> tuple[Tensor, Tensor]:
        if value is None:
            value = torch.full((len(dropped), prod(self.config.grid)), -1, device=dropped.device)
        codes = self.patches(value)  # (B, n, codes per token)
        visible = (codes >= 0).all(-1) & ~dropped[:, None]
        return self.join(self.table(codes.clamp_min(0)).flatten(2)), visible  # (B, n, D)

    def patches(self, value: Tensor) -> Tensor:
        """Codes (B, H', W') or (B, H' * W') by token, (B, n, codes per token)."""
        flat = value.flatten(1)
        check_shape("image", flat, (prod(self.config.grid),))
        (h, w), (down, across) = self.config.cells(self.grid), self.config.patch(self.grid)
        return flat.view(-1, h, down, w, across).transpose(2, 3).flatten(3).flatten(1, 2)

    def positions(self, grid: Grid) -> Tensor:
        """The tokens lie evenly over the prior's grid, so that cross-attention knows which are near."""
        return grid_positions(self.config.cells(self.grid), grid)

    def align(self, states: Tensor, visible: Tensor, null: Tensor, grid: Grid) -> Tensor:
        """The state at each grid position (the average of several), as ControlAR fuses them (arXiv:2410.02705).

        Cross-attention could find the state of a position too, but has to learn where it lies.
        """
        h, w = self.config.cells(self.grid)
        shown = torch.where(visible[..., None], states, null)  # (B, n, D)
        cells = F.adaptive_avg_pool2d(shown.mT.unflatten(-1, (h, w)), grid)  # (B, D, h, w)
        return self.aligned(cells.flatten(2).mT)  # (B, T, D)


def aligned_at(aligned: Tensor, position: Tensor) -> Tensor:
    """Rows of a table (B, T, D) at grid positions (n,) or (B, n), (B, n, D); zeros where a position is negative."""
    index = position.clamp_min(0).expand(len(aligned), -1)[..., None].expand(-1, -1, aligned.shape[-1])
    return aligned.gather(1, index) * (position >= 0)[..., None]
