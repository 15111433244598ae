"""Layers of the convolutional autoencoder: residual block, attention, resampling.

They are those of VQGAN (Esser et al. 2021, arXiv:2012.09841), so published weights can be loaded.
Shapes: B batch, C channels, H, W resolution of the level.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..nn.scores import weights_of_one

NORM_EPS = 1e-6  # the published models' value, not torch's 1e-5
PIXEL_WIDTH = 16
"""Channels per pixel before the last convolution of decoders that do not work at full resolution.

That convolution smooths the borders between patches: jumps across them were 3.3 times those within patches without it
and 2.0 times with it (transformer, 8 px patches, CIFAR-10, 700 steps).
"""


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, each after a norm, with a residual connection (a 1x1 convolution if the width changes)."""

    def __init__(self, in_width: int, out_width: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_width, eps=NORM_EPS)
        self.conv1 = nn.Conv2d(in_width, out_width, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, out_width, eps=NORM_EPS)
        self.conv2 = nn.Conv2d(out_width, out_width, 3, padding=1)
        self.shortcut = nn.Identity() if in_width == out_width else nn.Conv2d(in_width, out_width, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))  # (B, out, H, W)
        h = self.conv2(F.silu(self.norm2(h)))  # (B, out, H, W)
        return self.shortcut(x) + h


class SelfAttention(nn.Module):
    """Single-head attention over all H*W positions."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, eps=NORM_EPS)
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.proj = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        B, C, H, W = x.shape
        q, k, v = self._queries_keys_values(x)  # (B, 1, HW, C) each
        h = F.scaled_dot_product_attention(q, k, v)  # (B, 1, HW, C)
        return x + self.proj(h.squeeze(1).mT.reshape(B, C, H, W))

    def weights(self, x: Tensor, query: int) -> Tensor:
        """Return the weights (B, 1, HW) with which position `query` attends to all positions in `forward`."""
        q, k, _ = self._queries_keys_values(x)
        return weights_of_one(q, k, None, False, query)

    def _queries_keys_values(self, x: Tensor) -> tuple[Tensor, ...]:
        qkv = self.qkv(self.norm(x))  # (B, 3C, H, W)
        return qkv.flatten(2).mT.unsqueeze(1).chunk(3, dim=-1)


class Downsample(nn.Module):
    """Halves H and W. Only right and bottom are padded, as in the published networks."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))  # (B, C, H/2, W/2)


class Upsample(nn.Module):
    """Doubles H and W by nearest neighbours and a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))  # (B, C, 2H, 2W)


class ToPixels(nn.Module):
    """Maps (B, width, H/s, W/s) to pixels (B, PIXEL_WIDTH, H, W) by pixel shuffle (arXiv:1609.05158)."""

    def __init__(self, width: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.conv = nn.Conv2d(width, PIXEL_WIDTH * scale**2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(F.pixel_shuffle(self.conv(x), self.scale))


class Level(nn.Module):
    """Residual blocks of one resolution, each followed by attention if `attention`, then resampling."""

    def __init__(
        self,
        in_width: int,
        out_width: int,
        *,
        blocks: int,
        groups: int,
        attention: bool,
        resample: nn.Module,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        widths = [in_width] + [out_width] * blocks
        self.blocks = nn.ModuleList(ResidualBlock(a, b, groups) for a, b in pairwise(widths))
        self.attentions = nn.ModuleList(
            SelfAttention(out_width, groups) if attention else nn.Identity() for _ in range(blocks)
        )
        self.resample = resample

    def forward(self, x: Tensor) -> Tensor:
        for block, attention in zip(self.blocks, self.attentions, strict=True):
            x = attention(recomputed(block, x, when=self.checkpointing and self.training))
        return self.resample(x)


def middle(width: int, groups: int, attention: bool) -> nn.Sequential:
    """Return the blocks of the lowest resolution: residual block, attention, residual block."""
    return nn.Sequential(
        ResidualBlock(width, width, groups),
        SelfAttention(width, groups) if attention else nn.Identity(),
        ResidualBlock(width, width, groups),
    )


def recomputed(module: nn.Module, *inputs: Any, when: bool) -> Tensor:
    """Return the module's output; if `when`, the backward pass recomputes its activations."""
    if not when:
        return module(*inputs)
    return checkpoint(module, *inputs, use_reentrant=False)
