"""What a prior is trained on: cross entropy of codes in raster order, in random orders, or of masked codes.

Shapes: B batch, T = h*w tokens, V codebook size.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..runtime.batch_random import batch_rand, batch_randint, mean_over_processes
from .conditions.condition import Condition
from .config import PriorConfig
from .decoding.orders import random_orders
from .model import Prior
from .recipe import PriorRecipe

Network = Callable[..., Tensor]
"""The prior, or what Accelerate made of it."""


def training_loss(
    network: Network,
    config: PriorConfig,
    recipe: PriorRecipe,
    codes: Tensor,
    condition: Condition,
    progress: float,
) -> dict[str, Tensor]:
    """The `loss` of codes (B, T), and its terms.

    Args:
        progress: fraction of the run that is done, for the annealing of random orders.
    """
    inputs = corrupt(codes, recipe.code_noise, config.codebook_size)
    targets = torch.ones_like(codes, dtype=torch.bool)
    if config.objective == "masked":
        targets = random_mask(codes)
        logits = network(inputs.masked_fill(targets, -1), **condition)
    elif config.objective == "random":
        order = training_orders(codes, random_fraction(recipe.anneal, progress))
        logits = network(inputs, **condition, order=order)
    else:
        logits = network(inputs, **condition)
    losses = F.cross_entropy(
        logits.flatten(0, 1), codes.flatten(), reduction="none", label_smoothing=recipe.label_smoothing
    )  # (B * T,)
    targets = targets.flatten()
    # The mean over the targets of all processes, whose numbers differ with masks.
    count = mean_over_processes(targets.sum().float())
    terms = {"loss": (losses * targets).sum() / count}
    if recipe.z_loss:
        z = logits.flatten(0, 1).logsumexp(-1).square()
        terms["z_loss"] = (z * targets).sum() / count
        terms["loss"] = terms["loss"] + recipe.z_loss * terms["z_loss"]
    return terms


def corrupt(codes: Tensor, fraction: float, codebook_size: int) -> Tensor:
    """Replace a random fraction of the codes (B, T) with uniformly random codes.

    When it samples, a prior reads its own codes, some of them unlikely. A prior that was only trained on real codes
    does not recover from them (exposure bias, Bengio et al. 2015, arXiv:1506.03099). The targets stay the real codes.
    """
    if fraction == 0:
        return codes
    noise = batch_randint(codebook_size, *codes.shape, device=codes.device)
    return torch.where(batch_rand(*codes.shape, device=codes.device) < fraction, noise, codes)


def random_mask(codes: Tensor) -> Tensor:
    """Which codes (B, T) are masked: a fraction cos(pi / 2 u) of each row, u uniform (MaskGIT, section 3.3)."""
    B, T = codes.shape
    fraction = torch.cos(math.pi / 2 * batch_rand(B, 1, device=codes.device))
    rank = batch_rand(B, T, device=codes.device).argsort(1)
    return rank < (fraction * T).ceil().clamp_min(1)


def training_orders(codes: Tensor, fraction: float) -> Tensor:
    """Orders (B, T): random for a fraction of the rows, raster for the others."""
    B, T = codes.shape
    keys = batch_rand(B, T, device=codes.device)
    raster = torch.arange(T, device=codes.device) / T
    return random_orders(torch.where(batch_rand(B, 1, device=codes.device) < fraction, keys, raster))


def random_fraction(anneal: tuple[float, ...], progress: float) -> float:
    """Fraction of random orders: 1, falling linearly to 0 between two points of the run (RAR, arXiv:2411.00776)."""
    if not anneal:
        return 1.0
    start, end = anneal
    if progress >= end:
        return 0.0
    return min(1.0, (end - progress) / (end - start)) if progress > start else 1.0


def log_likelihood(
    model: Prior, codes: Tensor, condition: Condition, generator: torch.Generator, *, raster: bool = False
) -> Tensor:
    """Mean natural log probability per code, (B,): exact in raster order, else for one random order per image.

    For a masked prior an unbiased estimate of the mean over random orders: the mean log probability of k masked codes
    given the others, k uniform in 1 to T (Hoogeboom et al. 2022, arXiv:2110.02037, equation 4).
    """
    B, T = codes.shape
    if model.config.objective == "raster" or (raster and model.config.objective == "random"):
        return model.log_prob(codes, **condition).mean(1)
    order = random_orders(torch.rand(B, T, generator=generator).to(codes.device))
    if model.config.objective == "random":
        return model.log_prob(codes, **condition, order=order).mean(1)
    count = torch.randint(1, T + 1, (B, 1), generator=generator).to(codes.device)
    masked = order.argsort(1) < count
    logits = model(codes.masked_fill(masked, -1), **condition)
    losses = F.cross_entropy(logits.mT, codes, reduction="none")  # (B, T)
    return -(losses * masked).sum(1) / count[:, 0]
