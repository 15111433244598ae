"""A source picture's codes: which of them lie where, as slots of the condition's encoder, and on the image's grid.

Shapes: B batch, H', W' grid of the source's codes, h', w' grid of its slots, M slots of the encoder, T places, D width.
"""

from __future__ import annotations

from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import DataError
from ..config import PriorConfig
from ..positions import grid_places, rotary_table


class ImageEmbedding(nn.Module):
    """Codes of a source picture to slots, the codes of a patch side by side through one matrix (as a ViT's patches).

    A source that is finer than the grid costs no more slots than the grid has, and loses nothing of where it has what.
    """

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        self.config = config
        self.codes = nn.Embedding(config.image_codebook_size, config.width)
        size = prod(config.image_patch)
        self.join = nn.Linear(size * config.width, config.width, bias=False) if size > 1 else nn.Identity()

    def forward(self, source: Tensor) -> Tensor:
        """Codes (B, H', W') or (B, H' * W') to (B, h' * w', D)."""
        return self.join(self.codes(patches(source, self.config)).flatten(2))


def patches(source: Tensor, config: PriorConfig) -> Tensor:
    """Codes (B, H', W') or (B, H' * W') by slot, (B, h' * w', codes of a slot).

    Raises:
        DataError: another number of codes than the prior was trained with.
    """
    flat, grid = source.flatten(1), config.image_grid
    if flat.shape[1] != prod(grid):
        raise DataError(f"a source of {flat.shape[1]} codes, the prior was trained with {prod(grid)}")
    (h, w), (down, across) = config.image_cells, config.image_patch
    return flat.view(-1, h, down, w, across).transpose(2, 3).flatten(3).flatten(1, 2)


def source_at(memory: Tensor, mask: Tensor, config: PriorConfig, grid: tuple[int, int]) -> Tensor:
    """The memory of the source's slot on each place of the grid, (B, T, D); of several the average; where the source is
    hidden, "nothing".

    Cross-attention could find them, but has to learn where they lie; here each slot is told, as ControlAR fuses control
    and image tokens place by place (arXiv:2410.02705).
    """
    h, w = config.image_cells
    there = mask[:, 0, 0, -h * w :, None]
    source = torch.where(there, memory[:, -h * w :], memory[:, :1])  # (B, h' * w', D)
    cells = F.adaptive_avg_pool2d(source.mT.unflatten(-1, (h, w)), grid)  # (B, D, h, w)
    return cells.flatten(2).mT


def memory_turns(config: PriorConfig, grid: tuple[int, int], device: torch.device) -> Tensor | None:
    """Rotary angles of the memory's keys, (M, head_width / 2, 2): a slot of the source turns by the place it lies on.

    So cross-attention knows how far it is from the place to be predicted. All else is not turned.
    """
    if config.rotary == "none" or not config.image_grid:
        return None
    h, w = config.image_cells
    places = grid_places((h, w), grid)
    turned = rotary_table(places, config.head_width, config.rope_base)
    unturned = torch.zeros(config.encoder_length - h * w, *turned.shape[1:])
    unturned[..., 0] = 1.0
    return torch.cat([unturned, turned]).to(device)


def at_places(table: Tensor, place: Tensor) -> Tensor:
    """Rows of a table (B, T, D) by place (n,) or (B, n), (B, n, D); zeros where a place is negative."""
    index = place.clamp_min(0).expand(len(table), -1)[..., None].expand(-1, -1, table.shape[-1])
    return table.gather(1, index) * (place >= 0)[..., None]
