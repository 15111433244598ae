"""The codebook: vector-quantize-pytorch behind one result that has names."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from vector_quantize_pytorch import VectorQuantize

from .config import TokenizerConfig


@dataclass(frozen=True)
class Quantized:
    """What the codebook made of latents."""

    quantized: Tensor
    """(B, codebook_dim, h, w) float32: the chosen code vectors; gradients flow to the latents."""
    codes: Tensor
    """(B, h, w) int64 in [0, V)."""
    commitment: Tensor
    """Scalar: mean squared distance of the latents to their codes, unweighted."""


class Quantizer(nn.Module):
    """Nearest code of each latent, always in float32: half precision picks other codes."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.codebook_size = config.codebook_size
        self.vq = VectorQuantize(
            dim=config.codebook_dim,
            codebook_size=config.codebook_size,
            use_cosine_sim=config.codebook_distance == "cosine",
            decay=config.codebook_decay,
            threshold_ema_dead_code=config.dead_code_threshold,
            rotation_trick=config.rotation_trick,
            accept_image_fmap=True,
            commitment_weight=1.0,
        )

    def forward(self, latents: Tensor) -> Quantized:
        """Latents (B, codebook_dim, h, w). In training mode the codebook learns from them."""
        with torch.autocast(latents.device.type, enabled=False):
            quantized, codes, commitment = self.vq(latents.float())
        return Quantized(quantized, codes, commitment)

    def lookup(self, codes: Tensor) -> Tensor:
        """Codes (B, h, w) to their vectors (B, codebook_dim, h, w)."""
        return self.vq.get_codes_from_indices(codes)
