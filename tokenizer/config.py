"""What a tokenizer is (`TokenizerConfig`) and how it is trained (`TokenizerRecipe`). No heavy imports."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ConfigError
from ..options import option


@dataclass(frozen=True)
class TokenizerConfig:
    """The convolutional VQ autoencoder, complete: the network can be rebuilt from this alone."""

    image_size: int = option(32, "Side of the training images in pixels.", minimum=4)
    channels: int = option(3, "Image channels: 1 grey, 3 colour.", minimum=1)
    width: int = option(32, "Channels at full resolution.", minimum=1)
    multipliers: tuple[int, ...] = option(
        (1, 2, 2), "Width multiplier of each level; every level after the first halves the resolution."
    )
    blocks: int = option(1, "Residual blocks a level (the decoder has one more).", minimum=1)
    attention_levels: tuple[int, ...] = option(
        (), "Levels with self-attention after each block; 0 is full resolution."
    )
    middle_attention: bool = option(True, "Self-attention at the lowest resolution, between two blocks.")
    latent_width: int = option(
        64, "Channels the encoder ends with and the decoder starts from, around the codebook.", minimum=1
    )
    codebook_size: int = option(256, "Number of codes V.", minimum=2, maximum=2**31)
    codebook_dim: int = option(8, "Dimension of a code.", minimum=1)
    codebook_distance: str = option(
        "cosine", "How the nearest code is found.", choices=("cosine", "euclidean")
    )
    codebook_decay: float = option(0.99, "Decay of the codes' moving averages.", minimum=0, maximum=1)
    dead_code_threshold: float = option(
        1.0, "Codes used less often than this a batch (moving average) are replaced; 0 never.", minimum=0
    )
    rotation_trick: bool = option(
        False, "Gradients through the codebook by rotation (arXiv:2410.06424), not straight-through."
    )
    norm_groups: int = option(32, "Groups of the group normalisation.", minimum=1)

    def __post_init__(self) -> None:
        if not self.multipliers or min(self.multipliers) < 1:
            raise ConfigError(f"multipliers must be positive whole numbers, got {list(self.multipliers)}")
        if self.image_size % self.factor:
            raise ConfigError(
                f"image_size {self.image_size} is not a multiple of {self.factor}, "
                f"by which {len(self.multipliers)} multipliers reduce it"
            )
        if any(self.width * m % self.norm_groups for m in self.multipliers):
            raise ConfigError(
                f"width {self.width} times a multiplier is not a multiple of {self.norm_groups} groups"
            )
        levels = range(len(self.multipliers))
        if not set(self.attention_levels) <= set(levels):
            raise ConfigError(f"attention_levels {list(self.attention_levels)} are not among {list(levels)}")

    @property
    def factor(self) -> int:
        """Downsampling factor f: image side / grid side."""
        return 2 ** (len(self.multipliers) - 1)

    @property
    def grid(self) -> tuple[int, int]:
        """Grid (h, w) of a training image."""
        return self.image_size // self.factor, self.image_size // self.factor


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
    discriminator_weight: float = option(
        0.0, "Weight of the discriminator's judgement; 0 trains without one.", minimum=0
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
        "spectral", "Normalisation inside the discriminator.", choices=("spectral", "group")
    )
    discriminator_width: int = option(64, "Channels of the discriminator's first layer.", minimum=1)
    discriminator_layers: int = option(3, "Layers of the discriminator that halve the image.", minimum=1)
    # Not the autoencoder's rate: small autoencoders take rates at which a discriminator diverges.
    discriminator_lr: float = option(2e-4, "The discriminator's highest learning rate.", minimum=0)
    discriminator_clip: float = option(
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
    doctor: bool = option(
        True, "Watch a run with a discriminator, go back to the last good weights where it does harm."
    )
    doctor_window: int = option(5, "Lines of the log that the doctor averages over.", minimum=1)
    doctor_margin: float = option(
        1.0, "Loss of training PSNR in dB, against the best so far, at which the doctor acts.", minimum=0
    )
    doctor_accuracy: float = option(
        0.98,
        "Discriminator's accuracy on real and on fake images above which the doctor calls it won.",
        minimum=0,
        maximum=1,
    )
