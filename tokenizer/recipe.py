"""Training recipe of a tokenizer: losses and discriminator. No heavy imports."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..options import MAX_INT, option


@dataclass(frozen=True)
class TokenizerRecipe:
    """Training of the tokenizer.

    `NAME_weight` is the weight of the loss NAME, which the log lists under the same name. A loss of weight 0 is not
    computed (l1 and l2 are always logged).

    Discriminators:
        patch: PatchGAN (arXiv:1611.07004), trained from scratch. Up to three layers halve the resolution, fewer for
            images below 24 px.
        features: small heads on the features of the LPIPS backbone (Projected GAN, arXiv:2111.01007), for few images
            and short runs.

    The discriminator starts at step `discriminator_start`, and its weight rises linearly over `discriminator_ramp`
    steps. With `discriminator_adaptive` the weight is scaled so that the gradients of generator loss and
    reconstruction losses have the same norm at the decoder's last layer (VQGAN). `rollback` restores the last good
    weights when training diverges (tokenizer/divergence.py).
    """

    l1_weight: float = option(1.0, "Weight of the absolute error.", minimum=0, group="losses")
    l2_weight: float = option(1.0, "Weight of the squared error.", minimum=0, group="losses")
    lpips_weight: float = option(
        0.0,
        "Weight of LPIPS, which needs pretrained weights.",
        minimum=0,
        group="losses",
        common=True,
    )
    lpips_backbone: str = option(
        "vgg", "Network of LPIPS.", choices=("vgg", "alex", "squeeze"), group="losses"
    )
    lpips_file: str | None = option(
        None,
        "File with the weights of the LPIPS backbone.",
        auto="in $TORCH_HOME, downloaded if missing",
        group="losses",
    )
    commitment_weight: float = option(
        0.25, "Weight of the commitment loss: latents stay near their codes.", minimum=0, group="losses"
    )
    entropy_weight: float = option(
        0.05,
        "lfq: weight of the entropy loss (confident latents, all codes used).",
        minimum=0,
        group="losses",
    )
    discriminator_weight: float = option(
        0.0,
        "Weight of the generator loss; 0 trains without a discriminator.",
        minimum=0,
        group="discriminator",
        common=True,
    )
    discriminator: str = option(
        "patch",
        "patch: PatchGAN; features: heads on LPIPS features (Projected GAN).",
        choices=("patch", "features"),
        group="discriminator",
    )
    discriminator_adaptive: bool = option(
        True, "Scale the generator loss to the gradient of the reconstruction.", group="discriminator"
    )
    discriminator_start: int = option(
        1000, "Step at which the discriminator starts.", minimum=0, group="discriminator"
    )
    discriminator_ramp: int = option(
        1000, "Steps over which the weight of its loss then rises.", minimum=0, group="discriminator"
    )
    discriminator_loss: str = option(
        "hinge",
        "Loss of the discriminator.",
        choices=("hinge", "non-saturating", "vanilla"),
        group="discriminator",
    )
    discriminator_width: int = option(
        64,
        "Channels of the first layer (patch) or of each head (features).",
        minimum=1,
        maximum=4096,
        group="discriminator",
    )
    # A separate default: small autoencoders train at rates at which a discriminator diverges.
    discriminator_lr: float = option(
        2e-4, "Highest learning rate of the discriminator.", minimum=0, group="discriminator"
    )
    lecam_weight: float = option(
        0.05, "Weight of the LeCam regularisation, for few images.", minimum=0, group="discriminator"
    )
    r1_weight: float = option(
        0.0, "Weight of the R1 gradient penalty (a second backward pass).", minimum=0, group="discriminator"
    )
    rollback: bool = option(
        True, "Restore the last good weights when training diverges.", group="discriminator"
    )


@dataclass(frozen=True)
class DecoderRecipe(TokenizerRecipe):
    """Training of the decoder alone, after the tokenizer's: its losses, and codes that are replaced by others.

    The decoder learns to hide mistakes of a prior, which it never sees in the codes of real images (RobusTok,
    arXiv:2509.12474). Half of the replaced codes become one of the nearest codes of the codebook, the others any code.
    With `codes_from_prior` all of them are drawn from the probabilities of the model's prior, given the real codes
    before.
    """

    code_noise: float = option(
        0.1,
        "Largest fraction of an image's codes that are replaced by others in training.",
        minimum=0,
        maximum=1,
        group="losses",
        common=True,
    )
    codes_from_prior: bool = option(
        False, "Draw the codes that replace others from the model's prior.", group="losses"
    )


def moved(recipe: TokenizerRecipe, step: int, ratio: float, window: int) -> TokenizerRecipe:
    """Return the recipe with a discriminator that starts and rises later or earlier.

    It stays as it is where it starts within a log line of the step, or has started: the rollback may have prepared
    for it.

    Args:
        ratio: of the steps that are left after this step to those that were left before the change.
        window: steps between log lines.
    """
    start, ramp = recipe.discriminator_start, recipe.discriminator_ramp
    if start <= step + window:
        return recipe
    return starting_at(recipe, step + ratio * (start - step), ratio * ramp, step + window + 1)


def starting_at(recipe: TokenizerRecipe, start: float, ramp: float, earliest: int = 0) -> TokenizerRecipe:
    """Return the recipe with another start of the discriminator."""
    whole = max(earliest, min(MAX_INT, round(start))), max(1, min(MAX_INT, round(ramp)))
    return replace(recipe, discriminator_start=whole[0], discriminator_ramp=whole[1])


def never_starts(recipe: TokenizerRecipe, steps: int) -> str | None:
    """Return a line that says so where the discriminator starts after the last step of a run."""
    if not recipe.discriminator_weight or recipe.discriminator_start < steps:
        return None
    return (
        f"the discriminator starts at step {recipe.discriminator_start:,}, but the run has {steps:,} steps: it has no "
        f"effect; pass a lower --discriminator-start"
    )
