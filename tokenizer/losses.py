"""Reconstruction losses by name. The recipe's field `NAME_weight` and the log use the same names.

A new loss is a function here under `@register("NAME")` and a field `NAME_weight` of `TokenizerRecipe`. The losses of a
quantizer come with its result (`Quantized.losses`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields

import torch.nn.functional as F
from torch import Tensor

from .perceptual import Perceptual
from .recipe import TokenizerRecipe

Loss = Callable[[Tensor, Tensor, Perceptual | None], Tensor | None]
"""Images and reconstructions (B, C, H, W) in [-1, 1] and the network of LPIPS -> an unweighted scalar.

None where the loss needs LPIPS and its network is missing.
"""

LOSSES: dict[str, Loss] = {}
"""Reconstruction losses by name."""
LPIPS_SIDE = 64
"""Smallest side of images in the LPIPS loss, in pixels. Its network halves the resolution at once and three times more;
at 32 px it sees too little (docs/quality.md)."""
ALWAYS = ("l1", "l2")
"""Losses that are logged even with weight 0. The divergence monitor reads `l2`."""


def register(name: str) -> Callable[[Loss], Loss]:
    """Return a decorator that adds a loss to `LOSSES`."""

    def add(loss: Loss) -> Loss:
        LOSSES[name] = loss
        return loss

    return add


@register("l1")
def absolute_error(images: Tensor, reconstructions: Tensor, perceptual: Perceptual | None) -> Tensor:
    """Return the mean absolute error."""
    return F.l1_loss(reconstructions, images)


@register("l2")
def squared_error(images: Tensor, reconstructions: Tensor, perceptual: Perceptual | None) -> Tensor:
    """Return the mean squared error."""
    return F.mse_loss(reconstructions, images)


@register("lpips")
def perceptual_distance(
    images: Tensor, reconstructions: Tensor, perceptual: Perceptual | None
) -> Tensor | None:
    """Return the mean LPIPS distance (arXiv:1801.03924), small images enlarged to `LPIPS_SIDE`."""
    if perceptual is None:
        return None
    return perceptual(enlarged(images), enlarged(reconstructions)).mean()


def enlarged(images: Tensor) -> Tensor:
    """Enlarge images (B, C, H, W) so that the shorter side has at least `LPIPS_SIDE` pixels (bilinear)."""
    scale = LPIPS_SIDE / min(images.shape[2:])
    if scale <= 1:
        return images
    size = [round(side * scale) for side in images.shape[2:]]
    return F.interpolate(images, size, mode="bilinear", align_corners=False)


def loss_weights(recipe: TokenizerRecipe) -> dict[str, float]:
    """Return the weight of each loss by name: the values of the recipe's fields `NAME_weight`."""
    names = [f.name for f in fields(recipe) if f.name.endswith("_weight")]
    return {name.removesuffix("_weight"): getattr(recipe, name) for name in names}


def reconstruction_losses(
    images: Tensor,
    reconstructions: Tensor,
    weights: Mapping[str, float],
    perceptual: Perceptual | None = None,
) -> dict[str, Tensor]:
    """Return the losses of weight above 0 and those of `ALWAYS`: unweighted scalars by name."""
    computed = (
        (name, loss(images, reconstructions, perceptual))
        for name, loss in LOSSES.items()
        if weights.get(name, 0) > 0 or name in ALWAYS
    )
    return {name: value for name, value in computed if value is not None}


def weighted_sum(losses: Mapping[str, Tensor], weights: Mapping[str, float | Tensor]) -> Tensor:
    """Return the scalar that training minimises."""
    return sum((weights[name] * loss for name, loss in losses.items()), start=next(iter(losses.values())) * 0)
