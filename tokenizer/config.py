"""Architecture of a tokenizer. No heavy imports."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from ..errors import ConfigError
from ..options import option, sides_of, size_text, to_size

QUANTIZERS = ("vq", "simvq", "fsq", "lfq", "residual_vq")
"""Names under which tokenizer/quantizer.py registers its classes."""
QUANTIZER_OPTIONS = {
    "codebook_learned": ("vq", "residual_vq"),
    "rotation_trick": ("vq", "simvq", "residual_vq"),
    "spherical": ("lfq",),
}
"""Switches, and the quantizers that have them."""
MAX_CODES = 2**20
"""Most codes. Codebooks and the prior's logits hold all of them; published models have at most 2**18."""
MAX_WIDTH, MAX_SIDE, MAX_BLOCKS = 2**16, 2**14, 512
"""Most channels of a layer, longest side of an image in pixels, most blocks: above those of published models."""


@dataclass(frozen=True)
class TokenizerConfig:
    """Architecture of the VQ autoencoder, complete: the network can be rebuilt from this alone.

    Networks:
        conv: the VQGAN's convolutional encoder and decoder (arXiv:2012.09841). Level 0 works at full resolution, and
            each level after the first halves the resolution. The decoder has one more residual block per level.
            With `stem` s above 1, level 0 works at 1/s of the resolution: blocks of s x s pixels become channels
            (arXiv:1609.05158).
        vit: a transformer over patches (arXiv:2110.04627), `depth` blocks each in encoder and decoder.
            `registers` are learned tokens that are prepended to the patches and discarded (arXiv:2309.16588).

    Quantizers:
        vq: nearest of V codes (arXiv:1711.00937). Codes are moving averages of their latents, or learned by gradient.
        simvq: nearest of V frozen codes under a learned linear map (arXiv:2411.02038).
        fsq: each dimension rounded to one of `fsq_levels` values (arXiv:2309.15505); V is their product.
        lfq: signs of the latents (arXiv:2310.05737), with `spherical` on the unit sphere (BSQ, arXiv:2406.07548).
        residual_vq: several codes per latent, each for the residual of the ones before (arXiv:2203.01941).

    The distance of simvq and residual_vq is Euclidean. `codebook_dim` of fsq and lfq follows from the number of codes.
    A code of vq or residual_vq is dead, and replaced by a latent, when its moving average of uses per batch is below
    `dead_code_threshold`. `rotation_trick` passes gradients through the codebook by rotation (arXiv:2410.06424) instead
    of straight-through.
    """

    image_size: int | tuple[int, int] = option(
        32,
        "Training images in pixels: side of a square, or height x width.",
        minimum=4,
        maximum=MAX_SIDE,
        group="network",
        common=True,
    )
    channels: int = option(3, "Image channels: 1 grey, 3 colour.", minimum=1, maximum=256, group="network")
    bit_depth: int = option(8, "Bit depth of grey images that are written.", choices=(8, 16), group="network")
    network: str = option(
        "conv",
        "conv: VQGAN's convolutions; vit: a transformer over patches.",
        choices=("conv", "vit"),
        group="network",
    )
    width: int = option(
        32,
        "conv: channels at full resolution; vit: model width.",
        minimum=1,
        maximum=MAX_WIDTH,
        group="network",
    )
    multipliers: tuple[int, ...] = option(
        (1, 2, 2),
        "conv: width multiplier of each level.",
        minimum=1,
        maximum=MAX_WIDTH,
        most=12,
        group="network",
    )
    stem: int = option(
        1,
        "conv: side of the pixel blocks that the first level reads as channels.",
        minimum=1,
        maximum=64,
        group="network",
    )
    blocks: int = option(
        1, "conv: residual blocks per level.", minimum=1, maximum=MAX_BLOCKS, group="network"
    )
    attention_levels: tuple[int, ...] = option(
        (), "conv: levels with self-attention; 0 is full resolution.", minimum=0, most=12, group="network"
    )
    middle_attention: bool = option(True, "conv: self-attention at the lowest resolution.", group="network")
    latent_width: int = option(
        64,
        "conv: channels between the network and the codebook.",
        minimum=1,
        maximum=MAX_WIDTH,
        group="network",
    )
    norm_groups: int = option(
        32, "conv: groups of the group normalisation.", minimum=1, maximum=MAX_WIDTH, group="network"
    )
    patch: int = option(4, "vit: side of a patch in pixels.", minimum=1, maximum=1024, group="network")
    depth: int = option(
        4,
        "vit: transformer blocks in encoder and in decoder.",
        minimum=1,
        maximum=MAX_BLOCKS,
        group="network",
    )
    heads: int = option(4, "vit: attention heads.", minimum=1, maximum=1024, group="network")
    registers: int = option(0, "vit: register tokens.", minimum=0, maximum=4096, group="network")
    gradient_checkpointing: bool = option(
        False, "Recompute activations in the backward pass: less memory, more time.", group="network"
    )
    quantizer: str = option(
        "vq",
        "How latents become codes; residual_vq: several codes per latent.",
        choices=QUANTIZERS,
        group="quantizer",
        common=True,
    )
    codebook_size: int = option(
        256,
        "Number of codes V (fsq: see --fsq-levels; lfq: a power of two).",
        minimum=2,
        maximum=MAX_CODES,
        group="quantizer",
        common=True,
    )
    codebook_dim: int = option(
        8, "Dimension of a code (not for fsq and lfq).", minimum=1, maximum=MAX_WIDTH, group="quantizer"
    )
    codebook_distance: str = option(
        "cosine",
        "vq: distance that finds the nearest code.",
        choices=("cosine", "euclidean"),
        group="quantizer",
    )
    codebook_learned: bool = option(
        False, "Learn codes by gradient (Euclidean vq, residual_vq).", group="quantizer"
    )
    codebook_decay: float = option(
        0.99,
        "Decay of the codes' moving averages (vq, residual_vq).",
        minimum=0,
        maximum=1,
        group="quantizer",
    )
    dead_code_threshold: float = option(
        1.0,
        "Uses per batch below which a code is replaced (vq, residual_vq); 0: never.",
        minimum=0,
        group="quantizer",
    )
    rotation_trick: bool = option(
        False, "Gradients through the codebook by rotation (vq, simvq, residual_vq).", group="quantizer"
    )
    fsq_levels: tuple[int, ...] = option(
        (8, 5, 5, 5),
        "fsq: values of each dimension; their product is V.",
        minimum=1,
        maximum=MAX_CODES,
        most=32,
        group="quantizer",
    )
    spherical: bool = option(False, "lfq: unit-length latents and codes (BSQ).", group="quantizer")
    residual_codes: int = option(
        2, "residual_vq: codes per latent.", minimum=1, maximum=256, group="quantizer"
    )
    tuned_from: tuple[str, ...] = ()
    """After `tune-decoder`: `Tokenizer.codes_sha256` and the SHA-256 of all weights of the tokenizer before it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_size", to_size(self.image_size, "image_size"))
        self._check_conv() if self.network == "conv" else self._check_vit()
        self._check_size()
        if self.bit_depth == 16 and self.channels != 1:
            raise ConfigError(f"bit_depth 16 needs grey images (channels 1), channels is {self.channels}")
        self._check_quantizer()
        for name, value in self._derived().items():
            object.__setattr__(self, name, value)

    def _check_size(self) -> None:
        """ConfigError unless both sides are multiples of the factor; the message has the nearest sizes that are."""
        f = self.factor
        if not any(side % f for side in self.size):
            return
        levels = f"{len(self.multipliers)} multipliers" + (f" and stem {self.stem}" if self.stem > 1 else "")
        cause = "patch" if self.network == "vit" else levels
        below = tuple(max(f, side // f * f) for side in self.size)
        above = tuple(-(-side // f) * f for side in self.size)
        near = " or ".join(dict.fromkeys(size_text(to_size(sides)) for sides in (below, above)))
        raise ConfigError(
            f"image_size {size_text(self.image_size)} is not a multiple of {f}, the downsampling factor of {cause}; "
            f"the nearest multiples are {near}"
        )

    def _check_conv(self) -> None:
        if not self.multipliers or min(self.multipliers) < 1:
            raise ConfigError(f"multipliers must be positive integers, got {list(self.multipliers)}")
        if self.width * max(self.multipliers) > MAX_WIDTH:
            raise ConfigError(
                f"width {self.width} times multiplier {max(self.multipliers)} is more than {MAX_WIDTH:,} channels"
            )
        if any(self.width * m % self.norm_groups for m in self.multipliers):
            raise ConfigError(
                f"width {self.width} times a multiplier is not a multiple of norm_groups {self.norm_groups}"
            )
        levels = range(len(self.multipliers))
        if not set(self.attention_levels) <= set(levels):
            raise ConfigError(f"attention_levels {list(self.attention_levels)} are not among {list(levels)}")

    def _check_vit(self) -> None:
        if self.width % self.heads or self.width // self.heads % 4:
            raise ConfigError(
                f"width {self.width} with {self.heads} heads: the 2-D rotary embedding needs a head width that is a "
                f"multiple of 4"
            )

    def _check_quantizer(self) -> None:
        kind = self.quantizer
        if kind == "lfq" and self.codebook_size & (self.codebook_size - 1):
            raise ConfigError(f"lfq needs a power of two as codebook_size, got {self.codebook_size}")
        if kind == "fsq" and min(self.fsq_levels, default=0) < 3:
            raise ConfigError(f"fsq_levels must be at least 3 each, got {list(self.fsq_levels)}")
        if kind == "fsq" and prod(self.fsq_levels) > MAX_CODES:
            raise ConfigError(f"fsq_levels {list(self.fsq_levels)} give more than {MAX_CODES:,} codes")
        if kind == "vq" and self.codebook_learned and self.codebook_distance == "cosine":
            raise ConfigError(
                "codebook_learned needs codebook_distance euclidean: cosine codes are moving averages"
            )
        for name, kinds in QUANTIZER_OPTIONS.items():
            if getattr(self, name) and kind not in kinds:
                raise ConfigError(f"{name} is an option of {', '.join(kinds)}, but the quantizer is {kind}")

    def _derived(self) -> dict[str, int]:
        """Return the fields that the quantizer determines."""
        if self.quantizer == "fsq":
            return {"codebook_size": prod(self.fsq_levels), "codebook_dim": len(self.fsq_levels)}
        if self.quantizer == "lfq":
            return {"codebook_dim": self.codebook_size.bit_length() - 1}
        return {}

    @property
    def size(self) -> tuple[int, int]:
        """Height and width (H, W) of the training images in pixels."""
        return sides_of(self.image_size)

    @property
    def factor(self) -> int:
        """Downsampling factor f: image side / side of the latents."""
        return self.patch if self.network == "vit" else self.stem * 2 ** (len(self.multipliers) - 1)

    @property
    def first_level_width(self) -> int:
        """Channels of the first level; of a transformer, its width."""
        return self.width * (1 if self.network == "vit" else self.multipliers[0])

    @property
    def codes_per_latent(self) -> int:
        """Codes per latent, q."""
        return self.residual_codes if self.quantizer == "residual_vq" else 1

    @property
    def grid(self) -> tuple[int, int]:
        """Grid (h, w) of a training image's codes, w = q * W/f: the q codes of a latent are neighbours in a row."""
        h, w = (side // self.factor for side in self.size)
        return h, w * self.codes_per_latent

    @property
    def latent_channels(self) -> int:
        """Channels between the networks and the 1x1 convolutions around the codebook."""
        return self.width if self.network == "vit" else self.latent_width
