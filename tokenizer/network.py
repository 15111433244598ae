"""Encoder and decoder of the convolutional autoencoder (VQGAN, arXiv:2012.09841, appendix A).

Shapes: B batch, C channels, H, W image, s stem (1 in VQGAN), f downsampling factor, h = H/f, w = W/f grid.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import TokenizerConfig
from .layers import NORM_EPS, PIXEL_WIDTH, Downsample, Level, ToPixels, Upsample, middle


class Encoder(nn.Module):
    """Maps images (B, C, H, W) to latents (B, latent_width, H/f, W/f)."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        widths = [config.width * m for m in config.multipliers]
        inputs = [config.width, *widths[:-1]]
        last = len(widths) - 1
        self.stem = nn.PixelUnshuffle(config.stem) if config.stem > 1 else nn.Identity()
        self.conv_in = nn.Conv2d(config.channels * config.stem**2, config.width, 3, padding=1)
        self.levels = nn.ModuleList(
            Level(
                inputs[i],
                widths[i],
                blocks=config.blocks,
                groups=config.norm_groups,
                attention=i in config.attention_levels,
                resample=Downsample(widths[i]) if i < last else nn.Identity(),
                checkpointing=config.gradient_checkpointing,
            )
            for i in range(len(widths))
        )
        self.middle = middle(widths[-1], config.norm_groups, config.middle_attention)
        self.norm_out = nn.GroupNorm(config.norm_groups, widths[-1], eps=NORM_EPS)
        self.conv_out = nn.Conv2d(widths[-1], config.latent_width, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """Keep the first and last layers in float32 under autocast, in evaluation mode the last level and middle too.

        Half precision changes codes mostly where it rounds pixels and in the last layers before the codebook. In
        training the codes need not equal those of float32, and the layers between take most of the time.
        """
        *levels, last = self.levels
        with torch.autocast(images.device.type, enabled=False):
            x = self.conv_in(self.stem(images.float()))  # (B, width, H/s, W/s)
        x = to_autocast_dtype(x)
        for level in levels:
            x = level(x)
        if self.training:
            x = self.middle(last(x))
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            if not self.training:
                x = self.middle(last(x))  # (B, width * multipliers[-1], h, w)
            return self.conv_out(F.silu(self.norm_out(x)))  # (B, latent_width, h, w)


def to_autocast_dtype(x: Tensor) -> Tensor:
    """Cast x to autocast's type where autocast is enabled, as a convolution would."""
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x


class Decoder(nn.Module):
    """Maps latents (B, latent_width, h, w) to images (B, C, h*f, w*f), not clamped."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        widths = [config.width * m for m in config.multipliers]
        inputs = [*widths[1:], widths[-1]]
        self.conv_in = nn.Conv2d(config.latent_width, widths[-1], 3, padding=1)
        self.middle = middle(widths[-1], config.norm_groups, config.middle_attention)
        # Level i has the resolution of the encoder's level i and runs after level i + 1.
        self.levels = nn.ModuleList(
            Level(
                inputs[i],
                widths[i],
                blocks=config.blocks + 1,
                groups=config.norm_groups,
                attention=i in config.attention_levels,
                resample=Upsample(widths[i]) if i > 0 else nn.Identity(),
                checkpointing=config.gradient_checkpointing,
            )
            for i in range(len(widths))
        )
        self.norm_out = nn.GroupNorm(config.norm_groups, widths[0], eps=NORM_EPS)
        self.to_pixels = ToPixels(widths[0], config.stem) if config.stem > 1 else nn.Identity()
        self.conv_out = nn.Conv2d(
            PIXEL_WIDTH if config.stem > 1 else widths[0], config.channels, 3, padding=1
        )

    def forward(self, latents: Tensor) -> Tensor:
        x = self.middle(self.conv_in(latents))  # (B, width * multipliers[-1], h, w)
        for level in reversed(self.levels):
            x = level(x)
        x = self.to_pixels(F.silu(self.norm_out(x)))  # (B, width or PIXEL_WIDTH, H, W)
        return self.conv_out(x)  # (B, C, H, W)
