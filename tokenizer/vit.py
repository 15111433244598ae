"""Encoder and decoder of the transformer autoencoder (ViT-VQGAN, arXiv:2110.04627).

Positions are rotary and relative, so the networks work on any grid of patches.
Shapes: B batch, C channels, p patch, h, w grid of patches, R registers, N = R + h*w tokens, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..nn.attention import AttentionInputs, SelfAttention
from ..nn.feed_forward import SwiGLU
from ..nn.norms import make_norm
from ..nn.rotary import Rotary, grid_positions, prepend_unrotated, rotary_table
from .config import TokenizerConfig
from .layers import PIXEL_WIDTH, recomputed

ROPE_BASE = 100.0
"""Base of the rotary frequencies: grids are tens of positions wide, not thousands (arXiv:2403.13298)."""


class VitEncoder(nn.Module):
    """Maps images (B, C, H, W) to latents (B, D, H/p, W/p)."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.embed = nn.Conv2d(config.channels, config.width, config.patch, stride=config.patch)
        self.transformer = Transformer(config)

    def forward(self, images: Tensor) -> Tensor:
        return self.transformer(self.embed(images))


class VitDecoder(nn.Module):
    """Maps latents (B, D, h, w) to images (B, C, h*p, w*p), not clamped."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.transformer = Transformer(config)
        self.pixels = nn.Conv2d(config.width, PIXEL_WIDTH * config.patch**2, 1)
        self.conv_out = nn.Conv2d(PIXEL_WIDTH, config.channels, 3, padding=1)
        self.patch = config.patch

    def forward(self, latents: Tensor) -> Tensor:
        x = F.pixel_shuffle(self.pixels(self.transformer(latents)), self.patch)  # (B, PIXEL_WIDTH, H, W)
        return self.conv_out(F.gelu(x))


class Transformer(nn.Module):
    """Pre-norm transformer on a feature map (B, D, h, w), with full attention."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.head_width = config.width // config.heads
        self.checkpointing = config.gradient_checkpointing
        self.registers = nn.Parameter(torch.randn(config.registers, config.width) * 0.02)
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.depth))
        self.norm_out = make_norm("layer", config.width)

    def forward(self, latents: Tensor) -> Tensor:
        B, _, h, w = latents.shape
        R = len(self.registers)
        inputs = attention_inputs((h, w), self.head_width, R, latents.device)
        tokens = latents.flatten(2).mT  # (B, h*w, D)
        x = torch.cat([self.registers.to(tokens.dtype).expand(B, -1, -1), tokens], dim=1)  # (B, N, D)
        for block in self.blocks:
            x = recomputed(block, x, inputs, when=self.checkpointing and self.training)
        return self.norm_out(x[:, R:]).mT.reshape(B, -1, h, w)


class Block(nn.Module):
    """Self-attention and SwiGLU, each with a residual connection.

    The gated layer has as many weights as a plain one with an intermediate size of 4 * width.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention_norm = make_norm("layer", width)
        self.attention = SelfAttention(width, heads, bias=True)
        self.feed_forward_norm = make_norm("layer", width)
        self.feed_forward = SwiGLU(width, -(-8 * width // 3 // 32) * 32, bias=True)

    def forward(self, x: Tensor, inputs: AttentionInputs) -> Tensor:
        x = x + self.attention(self.attention_norm(x), inputs)
        return x + self.feed_forward(self.feed_forward_norm(x))


def attention_inputs(
    grid: tuple[int, int], head_width: int, registers: int, device: torch.device
) -> AttentionInputs:
    """Return the rotary tables of registers, which are not rotated, and grid positions."""
    table = rotary_table(grid_positions(grid), head_width, ROPE_BASE)
    table = prepend_unrotated(table, registers).to(device)  # (N, head_width / 2, 2)
    return AttentionInputs(rotary=Rotary(table, table))
