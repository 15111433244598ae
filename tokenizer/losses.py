"""The losses of the autoencoder, by name: the same names as their weights and in the log."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .config import TokenizerRecipe
from .model import Reconstruction
from .perceptual import Perceptual


def loss_weights(recipe: TokenizerRecipe) -> dict[str, float]:
    """Loss name to its weight."""
    return {
        "l1": recipe.l1_weight,
        "l2": recipe.l2_weight,
        "lpips": recipe.lpips_weight,
        "discriminator": recipe.discriminator_weight,
        "commitment": recipe.commitment_weight,
        "entropy": recipe.entropy_weight,
    }


def reconstruction_losses(
    images: Tensor, result: Reconstruction, perceptual: Perceptual | None = None
) -> dict[str, Tensor]:
    """Images (B, C, H, W) in [-1, 1] against what came back: unweighted scalars by name; LPIPS where its network is
    given."""
    losses = {"l1": F.l1_loss(result.images, images), "l2": F.mse_loss(result.images, images)}
    if perceptual is not None:
        losses["lpips"] = perceptual(images, result.images).mean()
    return losses


def codebook_losses(result: Reconstruction, quantizer: str) -> dict[str, Tensor]:
    """What a quantizer adds in training mode: unweighted scalars by name."""
    entropy = {"entropy": result.entropy} if quantizer == "lfq" else {}
    return {"commitment": result.commitment} | entropy


def weighted_sum(losses: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    """The scalar that is minimised."""
    return sum((weights[name] * loss for name, loss in losses.items()), start=next(iter(losses.values())) * 0)
