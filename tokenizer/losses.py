"""The losses of the autoencoder, by name: the same names as their weights and in the log."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .config import TokenizerRecipe
from .model import Reconstruction


def loss_weights(recipe: TokenizerRecipe) -> dict[str, float]:
    """Loss name to its weight."""
    return {"l1": recipe.l1_weight, "l2": recipe.l2_weight, "commitment": recipe.commitment_weight}


def reconstruction_losses(images: Tensor, result: Reconstruction) -> dict[str, Tensor]:
    """Images (B, C, H, W) in [-1, 1] against what came back: unweighted scalars by name."""
    return {
        "l1": F.l1_loss(result.images, images),
        "l2": F.mse_loss(result.images, images),
        "commitment": result.commitment,
    }


def weighted_sum(losses: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    """The scalar that is minimised."""
    return sum((weights[name] * loss for name, loss in losses.items()), start=next(iter(losses.values())) * 0)
