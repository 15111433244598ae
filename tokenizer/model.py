"""Stage one: images to a grid of codes and back.

Shapes: B batch, C channels, H, W image, f downsampling factor, h = H/f, w = W/f grid, V codebook size,
q codes per latent (1 except for residual_vq).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor, nn

from ..data.image import to_pil
from ..errors import DataError
from ..pretrained import PretrainedModel, tensors_sha256
from .config import TokenizerConfig
from .images import ImageLike, load_batch, to_list
from .network import Decoder, Encoder
from .quantizer import TRAINING_BUFFERS, Quantized, make_quantizer
from .vit import VitDecoder, VitEncoder

BATCH = 32
"""Images per forward pass of `encode_images` and `decode_images`."""
OUTER = ("conv_in", "embed", "to_pixels", "pixels", "conv_out")
"""First and last layers of encoders and decoders."""
OF_CODES = ("encoder.", "to_codebook.", "quantizer.")
"""Weights that decide which codes an image gets, and which vector a code stands for."""


@dataclass(frozen=True)
class Reconstruction:
    """Images that were encoded and decoded."""

    images: Tensor
    """(B, C, H, W), not clamped."""
    codes: Tensor
    """(B, h, w * q) int64."""
    losses: dict[str, Tensor] = field(default_factory=dict)
    """The quantizer's losses, unweighted scalars by name; see `Quantized`."""


class Tokenizer(PretrainedModel):
    """VQ autoencoder (VQ-VAE, arXiv:1711.00937) with VQGAN's convolutions (arXiv:2012.09841) or a ViT."""

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
        """Encode and decode images (B, C, H, W) in [-1, 1], with gradients."""
        q = self.quantize(images)
        return Reconstruction(self.decode_vectors(q.quantized), q.codes, q.losses)

    def encode(self, images: Tensor) -> Tensor:
        """Encode images (B, C, H, W) in [-1, 1], H and W multiples of f, to codes (B, h, w * q) int64.

        The q codes of a latent are neighbours in a row, so flattening gives the raster order of latents.

        Raises:
            DataError: the shape does not fit.
        """
        return self.quantize(images).codes

    def decode(self, codes: Tensor) -> Tensor:
        """Decode codes (B, h, w * q) to images (B, C, h*f, w*f), clamped to [-1, 1].

        Raises:
            DataError: the shape does not fit.
        """
        self._check_codes(codes)
        return self.decode_vectors(self.quantizer.lookup(codes)).clamp(-1, 1)

    @torch.no_grad()
    def encode_images(self, images: ImageLike | Sequence[ImageLike], *, background: str = "white") -> Tensor:
        """Encode PIL images or image files, one or several, to codes (B, h, w * q) int64.

        Images are centre-cropped and resized to the tokenizer's image size, as by `imgtf tokenizer reconstruct`.
        Images of 16 bits keep their depth. The tokenizer must be in evaluation mode, as after `from_pretrained`.

        Args:
            background: colour behind transparent pixels, a name or #rrggbb.

        Raises:
            DataError: there are no images, or one is missing, unreadable, or neither a PIL image nor a path.
            ConfigError: the tokenizer has other than 1 or 3 channels, or the colour is unknown.
        """
        given = to_list(images)
        chunks = (given[i : i + BATCH] for i in range(0, len(given), BATCH))
        batches = (load_batch(chunk, self.config, background) for chunk in chunks)
        return torch.cat([self.encode(batch.to(self.device)) for batch in batches])

    @torch.no_grad()
    def decode_images(self, codes: Tensor) -> list[Image.Image]:
        """Decode codes (B, h, w * q) to PIL images: RGB, L, or I;16 for a tokenizer of 16-bit images.

        Raises:
            DataError: the shape does not fit, or the tokenizer has other than 1 or 3 channels.
        """
        if self.config.channels not in (1, 3):
            raise DataError(
                f"PIL images have 1 or 3 channels, the tokenizer has {self.config.channels}; use decode"
            )
        self._check_codes(codes)
        batches = (self.decode(batch) for batch in codes.to(self.device).split(BATCH))
        return [to_pil(image, self.config.bit_depth) for batch in batches for image in batch]

    def quantize(self, images: Tensor) -> Quantized:
        """Encode images (B, C, H, W) in [-1, 1] to codes, code vectors and losses."""
        self._check_images(images)
        latents = self.encoder(images)
        with torch.autocast(images.device.type, enabled=False):  # as in the quantizer
            return self.quantizer(self.to_codebook(latents.float()))

    def decode_vectors(self, vectors: Tensor) -> Tensor:
        """Decode code vectors (B, codebook_dim, h, w) to images (B, C, H, W), not clamped."""
        return self.decoder(self.from_codebook(vectors)).float()

    @torch.no_grad()
    def code_vectors(self) -> Tensor:
        """Return the vector of each code, (V, codebook_dim) float32; of the first, coarsest code with several."""
        codes = torch.zeros(self.config.codebook_size, 1, self.config.codes_per_latent, dtype=torch.long)
        codes[:, 0, 0] = torch.arange(len(codes))
        return self.quantizer.lookup(codes.to(self.device))[:, :, 0, 0]

    def codes_sha256(self) -> str:
        """Return the identity of the codes: of the weights of encoder and codebook, without the decoder.

        Tokenizers with the same one encode images to the same codes, so priors and token caches refer to it. Like
        `weights_sha256` it does not cover the configuration.
        """
        weights = self.state_dict().items()
        own = {name: tensor for name, tensor in weights if name.startswith(OF_CODES)}
        return tensors_sha256({k: v for k, v in own.items() if k.rpartition(".")[2] not in TRAINING_BUFFERS})

    def codes_names(self) -> tuple[str, ...]:
        """Return every identity of this tokenizer's codes: `codes_sha256`, then those that older files hold.

        These are the SHA-256 of all weights: the present ones, and those before `imgtf tokenizer tune-decoder`.
        """
        own, before = self.codes_sha256(), self.config.tuned_from
        return (own, self.weights_sha256(), *(before[1:] if before[:1] == (own,) else ()))

    def made_codes_of(self, identity: str) -> bool:
        """Return whether this tokenizer makes the codes that a prior or a token cache refers to by an identity."""
        return identity == self.codes_sha256() or identity in self.codes_names()

    def outer_layers(self) -> Sequence[nn.Module]:
        halves = [half._modules.get(name) for half in (self.encoder, self.decoder) for name in OUTER]
        layers = [layer for layer in halves if layer is not None]
        return [*layers, self.to_codebook, self.quantizer, self.from_codebook]

    def _check_images(self, images: Tensor) -> None:
        f, C = self.config.factor, self.config.channels
        if images.dim() != 4 or images.shape[1] != C:
            raise DataError(f"the tokenizer needs images (B, {C}, H, W), got {tuple(images.shape)}")
        if images.shape[2] % f or images.shape[3] % f:
            raise DataError(f"image height and width must be multiples of {f}, got {tuple(images.shape[2:])}")

    def _check_codes(self, codes: Tensor) -> None:
        q = self.config.codes_per_latent
        if codes.dim() != 3 or codes.shape[2] % q:
            multiple = f", w a multiple of {q}" if q > 1 else ""
            raise DataError(f"the tokenizer needs codes (B, h, w){multiple}, got {tuple(codes.shape)}")

    def __repr__(self) -> str:
        c = self.config
        (H, W), (h, w) = c.size, c.grid
        return (
            f"Tokenizer({c.network}, {H}x{W}x{c.channels} images -> {h}x{w} codes (f{c.factor}), "
            f"{c.quantizer} with {c.codebook_size} codes of dimension {c.codebook_dim}, "
            f"{self.parameter_count():,} parameters, {self.device})"
        )
