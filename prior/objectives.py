"""What a prior learns: cross entropy of codes in raster order, in random orders, or of masked codes.

Shapes: B batch, T codes an image, V codebook size.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

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
    """`loss` of codes (B, T) and the parts that it is made of.

    Args:
        progress: share of the run that is done, for the annealing of random orders.
    """
    named = condition
    read, learned = (
        corrupt(codes, recipe.code_noise, config.codebook_size),
        torch.ones_like(codes, dtype=torch.bool),
    )
    if config.objective == "masked":
        learned = random_mask(codes)
        logits = network(read.masked_fill(learned, -1), **named)
    elif config.objective == "random":
        logits = network(read, **named, order=training_orders(codes, share_random(recipe.anneal, progress)))
    else:
        logits = network(read, **named)
    losses = F.cross_entropy(
        logits.flatten(0, 1), codes.flatten(), reduction="none", label_smoothing=recipe.label_smoothing
    )  # (B * T,)
    learned = learned.flatten()
    figures = {"loss": (losses * learned).sum() / learned.sum()}
    if recipe.z_loss:
        z = logits.flatten(0, 1).logsumexp(-1).square()
        figures["z_loss"] = (z * learned).sum() / learned.sum()
        figures["loss"] = figures["loss"] + recipe.z_loss * figures["z_loss"]
    return figures


def corrupt(codes: Tensor, share: float, codebook_size: int) -> Tensor:
    """Replaces a random share of the codes (B, T) by codes drawn evenly from all V.

    In sampling a prior reads its own codes, some of them unlikely; one that only ever read real ones goes astray
    from there (exposure bias: Bengio et al. 2015, arXiv:1506.03099). The targets stay as they are.
    """
    if share == 0:
        return codes
    noise = torch.randint_like(codes, codebook_size)
    return torch.where(torch.rand(codes.shape, device=codes.device) < share, noise, codes)


def random_mask(codes: Tensor) -> Tensor:
    """Which codes (B, T) are hidden: a share cos(pi / 2 u) of each row, u uniform (MaskGIT, section 3.3)."""
    B, T = codes.shape
    share = torch.cos(math.pi / 2 * torch.rand(B, 1, device=codes.device))
    rank = torch.rand(B, T, device=codes.device).argsort(1)
    return rank < (share * T).ceil().clamp_min(1)


def training_orders(codes: Tensor, share: float) -> Tensor:
    """Orders (B, T): a `share` of the rows random, the others raster."""
    B, T = codes.shape
    keys = torch.rand(B, T, device=codes.device)
    raster = torch.arange(T, device=codes.device) / T
    return random_orders(torch.where(torch.rand(B, 1, device=codes.device) < share, keys, raster))


def share_random(anneal: tuple[float, ...], progress: float) -> float:
    """Share of random orders: 1, falling evenly to 0 between two shares of the run (RAR, arXiv:2411.00776)."""
    if not anneal:
        return 1.0
    start, end = anneal
    if progress >= end:
        return 0.0
    return min(1.0, (end - progress) / (end - start)) if progress > start else 1.0


def log_likelihood(
    model: Prior, codes: Tensor, condition: Condition, generator: torch.Generator, *, raster: bool = False
) -> Tensor:
    """Mean natural log of the probability of a code, (B,): exact in raster order; in random orders one drawn order.

    For a masked prior an unbiased estimate of the same mean over random orders: the mean log probability of k hidden
    codes given the rest, k drawn evenly from 1 to T (Hoogeboom et al. 2022, arXiv:2110.02037, equation 4).
    """
    named = condition
    B, T = codes.shape
    if model.config.objective == "raster" or (raster and model.config.objective == "random"):
        return model.log_prob(codes, **named).mean(1)
    keys = torch.rand(B, T, generator=generator).to(codes.device)
    order = random_orders(keys)
    if model.config.objective == "random":
        return model.log_prob(codes, **named, order=order).mean(1)
    count = torch.randint(1, T + 1, (B, 1), generator=generator).to(codes.device)
    hidden = order.argsort(1) < count
    logits = model(codes.masked_fill(hidden, -1), **named)
    losses = F.cross_entropy(logits.mT, codes, reduction="none")  # (B, T)
    return -(losses * hidden).sum(1) / count[:, 0]
