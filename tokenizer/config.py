"""What a tokenizer is (`TokenizerConfig`) and how it is trained (`TokenizerRecipe`). No heavy imports."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from ..errors import ConfigError
from ..options import option

ONLY_OF = {
    "codebook_learned": ("vq", "residual_vq"),
    "rotation_trick": ("vq", "simvq", "residual_vq"),
    "spherical": ("lfq",),
}
"""Switches that say nothing to other quantizers than these."""


@dataclass(frozen=True)
class TokenizerConfig:
    """The VQ autoencoder, complete: the network can be rebuilt from this alone."""

    image_size: int = option(32, "Side of the training images in pixels.", minimum=4)
    channels: int = option(3, "Image channels: 1 grey, 3 colour.", minimum=1)
    bit_depth: int = option(8, "Bits of a grey pixel in the images written: 8 or 16.", choices=(8, 16))
    network: str = option(
        "conv", "conv: the VQGAN's convolutions; vit: a transformer over patches.", choices=("conv", "vit")
    )
    width: int = option(32, "conv: channels at full resolution; vit: model width.", minimum=1)
    multipliers: tuple[int, ...] = option(
        (1, 2, 2), "conv: width multiplier of each level; every level after the first halves the resolution."
    )
    blocks: int = option(1, "conv: residual blocks a level (the decoder has one more).", minimum=1)
    attention_levels: tuple[int, ...] = option(
        (), "conv: levels with self-attention after each block; 0 is full resolution."
    )
    middle_attention: bool = option(
        True, "conv: self-attention at the lowest resolution, between two blocks."
    )
    latent_width: int = option(
        64,
        "conv: channels the encoder ends with and the decoder starts from, around the codebook.",
        minimum=1,
    )
    norm_groups: int = option(32, "conv: groups of the group normalisation.", minimum=1)
    patch: int = option(4, "vit: side of a patch in pixels, the downsampling factor.", minimum=1)
    depth: int = option(4, "vit: transformer blocks of the encoder, and as many of the decoder.", minimum=1)
    heads: int = option(4, "vit: attention heads.", minimum=1)
    registers: int = option(
        0,
        "vit: learned tokens beside the patches, scratch space for attention (arXiv:2309.16588).",
        minimum=0,
    )
    gradient_checkpointing: bool = option(
        False, "Keep only the blocks' inputs in training and recompute the rest: less memory, more time."
    )
    quantizer: str = option(
        "vq",
        "vq: nearest of V codes; simvq: of V frozen codes under a learned map (arXiv:2411.02038); fsq: rounded "
        "numbers (arXiv:2309.15505); lfq: signs (arXiv:2310.05737); residual_vq: several codes a position, each "
        "for what the last one left (arXiv:2203.01941).",
        choices=("vq", "simvq", "fsq", "lfq", "residual_vq"),
    )
    codebook_size: int = option(
        256,
        "Number of codes V; a power of two for lfq; fsq: follows from fsq_levels.",
        minimum=2,
        maximum=2**31,
    )
    codebook_dim: int = option(
        8, "Dimension of a code; lfq and fsq: follows from the number of codes.", minimum=1
    )
    codebook_distance: str = option(
        "cosine",
        "vq: how the nearest code is found (simvq and residual_vq: euclidean).",
        choices=("cosine", "euclidean"),
    )
    codebook_learned: bool = option(
        False, "vq (euclidean) and residual_vq: codes learn by gradient, not by moving averages."
    )
    codebook_decay: float = option(
        0.99, "vq and residual_vq: decay of the codes' moving averages.", minimum=0, maximum=1
    )
    dead_code_threshold: float = option(
        1.0,
        "vq and residual_vq: codes used less often than this a batch (moving average) are replaced; 0 never.",
        minimum=0,
    )
    rotation_trick: bool = option(
        False,
        "vq, simvq and residual_vq: gradients through the codebook by rotation (arXiv:2410.06424), not "
        "straight-through.",
    )
    fsq_levels: tuple[int, ...] = option(
        (8, 5, 5, 5), "fsq: values each dimension of a code can take; their product is V."
    )
    spherical: bool = option(
        False, "lfq: latents and codes of length 1, binary spherical quantization (arXiv:2406.07548)."
    )
    residual_codes: int = option(
        2, "residual_vq: codes a position; the grid is as many times wider.", minimum=1
    )

    def __post_init__(self) -> None:
        self._check_conv() if self.network == "conv" else self._check_vit()
        if self.image_size % self.factor:
            cause = "patch" if self.network == "vit" else f"{len(self.multipliers)} multipliers"
            raise ConfigError(
                f"image_size {self.image_size} is not a multiple of {self.factor}, the factor of {cause}"
            )
        if self.bit_depth == 16 and self.channels != 1:
            raise ConfigError(f"bit_depth 16 is for grey images, channels is {self.channels}")
        self._check_quantizer()
        for name, value in self._implied().items():
            object.__setattr__(self, name, value)

    def _check_conv(self) -> None:
        if not self.multipliers or min(self.multipliers) < 1:
            raise ConfigError(f"multipliers must be positive whole numbers, got {list(self.multipliers)}")
        if any(self.width * m % self.norm_groups for m in self.multipliers):
            raise ConfigError(
                f"width {self.width} times a multiplier is not a multiple of {self.norm_groups} groups"
            )
        levels = range(len(self.multipliers))
        if not set(self.attention_levels) <= set(levels):
            raise ConfigError(f"attention_levels {list(self.attention_levels)} are not among {list(levels)}")

    def _check_vit(self) -> None:
        if self.width % self.heads or self.width // self.heads % 4:
            raise ConfigError(
                f"width {self.width} over {self.heads} heads: 2-D rotary positions need heads of a multiple of 4"
            )

    def _check_quantizer(self) -> None:
        kind = self.quantizer
        if kind == "lfq" and self.codebook_size & (self.codebook_size - 1):
            raise ConfigError(f"lfq has a power of two of codes, codebook_size is {self.codebook_size}")
        if kind == "fsq" and min(self.fsq_levels, default=0) < 3:
            raise ConfigError(f"fsq_levels must be numbers of at least 3, got {list(self.fsq_levels)}")
        if kind == "fsq" and prod(self.fsq_levels) > 2**31:
            raise ConfigError(f"fsq_levels {list(self.fsq_levels)} make more than 2**31 codes")
        if kind == "vq" and self.codebook_learned and self.codebook_distance == "cosine":
            raise ConfigError("codebook_learned needs codebook_distance euclidean: cosine codes are averages")
        for name, kinds in ONLY_OF.items():
            if getattr(self, name) and kind not in kinds:
                raise ConfigError(f"{name} is of {', '.join(kinds)}; the quantizer is {kind}")

    def _implied(self) -> dict[str, int]:
        """What the quantizer leaves no choice of, so that every reader finds it under one name."""
        if self.quantizer == "fsq":
            return {"codebook_size": prod(self.fsq_levels), "codebook_dim": len(self.fsq_levels)}
        if self.quantizer == "lfq":
            return {"codebook_dim": self.codebook_size.bit_length() - 1}
        return {}

    @property
    def factor(self) -> int:
        """Downsampling factor f: image side / side of the latents."""
        return self.patch if self.network == "vit" else 2 ** (len(self.multipliers) - 1)

    @property
    def codes_per_latent(self) -> int:
        """Codes of one latent: q."""
        return self.residual_codes if self.quantizer == "residual_vq" else 1

    @property
    def grid(self) -> tuple[int, int]:
        """Grid (h, w) of a training image's codes, w = q * W/f: the q codes of a latent stand side by side."""
        side = self.image_size // self.factor
        return side, side * self.codes_per_latent

    @property
    def latent_channels(self) -> int:
        """Channels between the networks and the 1x1 convolutions around the codebook."""
        return self.width if self.network == "vit" else self.latent_width


@dataclass(frozen=True)
class TokenizerRecipe:
    """How the tokenizer is taught. Weights of the losses go by their names in the log (`l1_weight` weighs `l1`)."""

    l1_weight: float = option(1.0, "Weight of the absolute error.", minimum=0)
    l2_weight: float = option(1.0, "Weight of the squared error.", minimum=0)
    lpips_weight: float = option(
        0.0, "Weight of the perceptual distance LPIPS; above 0 it needs pretrained weights.", minimum=0
    )
    lpips_backbone: str = option("vgg", "Network behind LPIPS.", choices=("vgg", "alex", "squeeze"))
    lpips_file: str | None = option(
        None, "File with the LPIPS backbone's weights.", auto="in $TORCH_HOME, else downloaded to there"
    )
    commitment_weight: float = option(0.25, "Weight that keeps encodings near their codes.", minimum=0)
    entropy_weight: float = option(
        0.05, "Weight of lfq's entropy term: each latent sure of its code, all codes alike in use.", minimum=0
    )
    discriminator_weight: float = option(
        0.0, "Weight of the discriminator's judgement; 0 trains without one.", minimum=0
    )
    discriminator: str = option(
        "patch",
        "patch: a PatchGAN, which learns to see from nothing; features: heads on what the LPIPS backbone sees "
        "(Projected GAN, arXiv:2111.01007), for few images and short runs.",
        choices=("patch", "features"),
    )
    discriminator_adaptive: bool = option(
        True, "Balance the judgement's gradient with that of the reconstruction (VQGAN)."
    )
    discriminator_start: int = option(1000, "Step at which the discriminator sets in.", minimum=0)
    discriminator_ramp: int = option(1000, "Steps over which its weight then rises.", minimum=0)
    discriminator_loss: str = option(
        "hinge",
        "What discriminator and autoencoder play for.",
        choices=("hinge", "non-saturating", "vanilla"),
    )
    discriminator_norm: str = option(
        "spectral", "patch: normalisation inside the discriminator.", choices=("spectral", "group")
    )
    discriminator_width: int = option(
        64, "patch: channels of the discriminator's first layer; features: of every head.", minimum=1
    )
    # Not the autoencoder's rate: small autoencoders take rates at which a discriminator diverges.
    discriminator_lr: float = option(2e-4, "The discriminator's highest learning rate.", minimum=0)
    discriminator_grad_clip: float = option(
        1.0, "Largest gradient norm of the discriminator; 0 leaves gradients alone.", minimum=0
    )
    lecam_weight: float = option(
        0.05, "Weight of the LeCam term, which calms the discriminator where images are few.", minimum=0
    )
    r1_weight: float = option(
        0.0,
        "Weight of the gradient penalty R1 on the discriminator (costs a second backward pass).",
        minimum=0,
    )
    rollback: bool = option(
        True, "Return to the last good weights when the discriminator makes images worse."
    )
