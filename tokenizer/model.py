"""Stage one: images to a grid of codes and back.

Shapes: B batch, C channels, H, W image, f downsampling factor, h = H/f, w = W/f grid, V codebook size.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ..errors import DataError
from ..pretrained import PretrainedModel
from .config import TokenizerConfig
from .network import Decoder, Encoder
from .quantizer import Quantized, Quantizer


@dataclass(frozen=True)
class Reconstruction:
    """What came of images that went through the codebook and back."""

    images: Tensor
    """(B, C, H, W), not clamped."""
    codes: Tensor
    """(B, h, w) int64."""
    commitment: Tensor
    """Scalar, unweighted."""


class Tokenizer(PretrainedModel):
    """Convolutional VQ autoencoder (VQ-VAE, arXiv:1711.00937; network of VQGAN, arXiv:2012.09841)."""

    kind = "tokenizer"
    config_class = TokenizerConfig
    config: TokenizerConfig

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__(config)
        self.encoder = Encoder(config)
        self.to_codebook = nn.Conv2d(config.latent_width, config.codebook_dim, 1)
        self.quantizer = Quantizer(config)
        self.from_codebook = nn.Conv2d(config.codebook_dim, config.latent_width, 1)
        self.decoder = Decoder(config)

    def forward(self, images: Tensor) -> Reconstruction:
        """Images (B, C, H, W) in [-1, 1] through the codebook and back, with gradients."""
        quantized = self.quantize(images)
        return Reconstruction(self.decode_vectors(quantized.quantized), quantized.codes, quantized.commitment)

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in [-1, 1], H and W multiples of f, to codes (B, h, w) int64."""
        return self.quantize(images).codes

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, h, w) to images (B, C, h*f, w*f), clamped to [-1, 1]."""
        return self.decode_vectors(self.quantizer.lookup(codes)).clamp(-1, 1)

    def quantize(self, images: Tensor) -> Quantized:
        """Images to their codes with the code vectors and the commitment loss."""
        self._check(images)
        return self.quantizer(self.to_codebook(self.encoder(images)))

    def decode_vectors(self, vectors: Tensor) -> Tensor:
        """Code vectors (B, codebook_dim, h, w) to images (B, C, H, W), not clamped."""
        return self.decoder(self.from_codebook(vectors)).float()

    def _check(self, images: Tensor) -> None:
        f, C = self.config.factor, self.config.channels
        if images.dim() != 4 or images.shape[1] != C:
            raise DataError(f"the tokenizer takes images (B, {C}, H, W), got {tuple(images.shape)}")
        if images.shape[2] % f or images.shape[3] % f:
            raise DataError(f"image height and width must be multiples of {f}, got {tuple(images.shape[2:])}")

    def extra_repr(self) -> str:
        c = self.config
        return (
            f"f{c.factor}, {c.codebook_size} codes of {c.codebook_dim}, {self.parameter_count():,} parameters"
        )
