"""Stage one: images to a grid of codes and back.

Shapes: B batch, C channels, H, W image, f downsampling factor, h = H/f, w = W/f grid, V codebook size,
q codes a latent (1 but for residual_vq).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..errors import DataError
from ..pretrained import PretrainedModel
from .config import TokenizerConfig
from .network import Decoder, Encoder
from .quantizer import Quantized, make_quantizer
from .vit import VitDecoder, VitEncoder


@dataclass(frozen=True)
class Reconstruction:
    """What came of images that went through the codebook and back."""

    images: Tensor
    """(B, C, H, W), not clamped."""
    codes: Tensor
    """(B, h, w * q) int64."""
    commitment: Tensor
    """Scalar, unweighted."""
    entropy: Tensor = field(default_factory=lambda: torch.zeros(()))
    """Scalar, unweighted; zero but for lfq."""


class Tokenizer(PretrainedModel):
    """VQ autoencoder (VQ-VAE, arXiv:1711.00937) of the VQGAN's convolutions (arXiv:2012.09841) or a transformer's."""

    kind = "tokenizer"
    config_class = TokenizerConfig
    config: TokenizerConfig

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__(config)
        vit, channels = config.network == "vit", config.latent_channels
        self.encoder = VitEncoder(config) if vit else Encoder(config)
        self.to_codebook = nn.Conv2d(channels, config.codebook_dim, 1)
        self.quantizer = make_quantizer(config)
        self.from_codebook = nn.Conv2d(config.codebook_dim, channels, 1)
        self.decoder = VitDecoder(config) if vit else Decoder(config)

    def forward(self, images: Tensor) -> Reconstruction:
        """Images (B, C, H, W) in [-1, 1] through the codebook and back, with gradients."""
        q = self.quantize(images)
        return Reconstruction(self.decode_vectors(q.quantized), q.codes, q.commitment, q.entropy)

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in [-1, 1], H and W multiples of f, to codes (B, h, w * q) int64.

        The q codes of a latent stand side by side, so that its raster order is theirs.
        """
        return self.quantize(images).codes

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, h, w * q) to images (B, C, h*f, w*f), clamped to [-1, 1]."""
        self._check_codes(codes)
        return self.decode_vectors(self.quantizer.lookup(codes)).clamp(-1, 1)

    def quantize(self, images: Tensor) -> Quantized:
        """Images to their codes with the code vectors and losses."""
        self._check(images)
        latents = self.encoder(images)
        with torch.autocast(images.device.type, enabled=False):  # as in the quantizer
            return self.quantizer(self.to_codebook(latents.float()))

    def decode_vectors(self, vectors: Tensor) -> Tensor:
        """Code vectors (B, codebook_dim, h, w) to images (B, C, H, W), not clamped."""
        return self.decoder(self.from_codebook(vectors)).float()

    def _check(self, images: Tensor) -> None:
        f, C = self.config.factor, self.config.channels
        if images.dim() != 4 or images.shape[1] != C:
            raise DataError(f"the tokenizer takes images (B, {C}, H, W), got {tuple(images.shape)}")
        if images.shape[2] % f or images.shape[3] % f:
            raise DataError(f"image height and width must be multiples of {f}, got {tuple(images.shape[2:])}")

    def _check_codes(self, codes: Tensor) -> None:
        q = self.config.codes_per_latent
        if codes.dim() != 3 or codes.shape[2] % q:
            raise DataError(
                f"the tokenizer takes codes (B, h, w), w a multiple of {q}, got {tuple(codes.shape)}"
            )

    def extra_repr(self) -> str:
        c = self.config
        codes = f"{c.codebook_size} {c.quantizer} codes of {c.codebook_dim}"
        return f"{c.network}, f{c.factor}, {codes}, {self.parameter_count():,} parameters"
