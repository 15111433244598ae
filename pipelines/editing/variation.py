"""Variants of an image: a share of its tokens is sampled anew.

Shapes: h, w grid, T = h*w tokens, q codes per latent.
"""

from __future__ import annotations

from numbers import Real

import torch
from torch import Tensor

from ...data.image import check_background
from ...errors import ConfigError
from ...options import whole_number
from ...prior.decoding.sampler import MAX_SEED, image_uniforms
from ...tokenizer.images import ImageLike
from ..canvas import Canvas
from ..condition_loader import to_condition
from ..models import Models
from ..prepare import fixed_values
from ..request import Features, Labels, Texts
from ..surprise import surprise
from .source import read_source

STRENGTH = 0.3
CHOICES = ("least-likely", "random")
ORDERS = 8
"""Random orders, or parts of a masked grid, that the likelihood of a code is averaged over."""


def variation(
    models: Models,
    image: ImageLike,
    *,
    strength: float = STRENGTH,
    choose: str = "least-likely",
    seed: int = 0,
    label: Labels = None,
    text: Texts = None,
    features: Features = None,
    background: str = "white",
) -> Canvas:
    """Return a canvas that lacks a share of an image's tokens; `Sampling.stream` samples them, given the rest.

    The result is the decoded image: kept tokens are scattered, so that no kept pixels are pasted back.

    Args:
        image: cropped in the centre and resized to the model's size.
        strength: share of the tokens that is sampled anew, above 0 and at most 1; at least one token.
        choose: "least-likely": those that the prior finds least likely, see `surprise.surprise`; "random".
        seed: of the random choice.
        label, text, features: condition under which tokens are likely or not; of several the first.
        background: colour behind transparent pixels, a name or #rrggbb.

    Raises:
        ConfigError: a number, name or colour out of range, or a condition that the prior does not have.
        DataError: the image cannot be read.
    """
    check_share("strength", strength)
    if choose not in CHOICES:
        raise ConfigError(f"choose must be one of {', '.join(CHOICES)}, got {choose!r}")
    whole_number("seed", seed, 0, MAX_SEED)
    check_background(background)
    values = fixed_values(models.loaders, label=label, text=text, features=features)
    source = read_source(models, image, background)
    codes = source.encode(models)  # (h, w)
    ranked = bits_of(models, codes, values) if choose == "least-likely" else random_numbers(codes.shape, seed)
    chosen = largest(ranked, strength, models.tokenizer.config.codes_per_latent, at_least=1)
    return Canvas(codes.masked_fill(chosen, -1), shown=(("input", source.image),))


def bits_of(models: Models, codes: Tensor, values: dict[str, list[object]]) -> Tensor:
    """Return -log2 of the probability of each code (h, w), float64, under the first value of each condition."""
    condition = to_condition(models.loaders, {kind: own[:1] for kind, own in values.items()})
    device = models.prior.device
    found = surprise(models.prior, codes.flatten()[None].to(device), condition.to(device), ORDERS)
    return found.bits.view(codes.shape)


def random_numbers(grid: torch.Size, seed: int) -> Tensor:
    """Return the uniform numbers (h, w) of a seed."""
    return image_uniforms(seed, 0, 1, grid.numel())[0, 0].view(grid)


def largest(values: Tensor, share: float, codes_per_latent: int, *, at_least: int = 0) -> Tensor:
    """Return (h, w) bool: a share of the latents, those whose values (h, w) have the largest sums.

    Of equal ones those that come first in raster order.
    """
    sums = values.unflatten(1, (-1, codes_per_latent)).sum(-1)  # (h, w / q)
    count = max(at_least, round(share * sums.numel()))
    chosen = torch.zeros(sums.numel(), dtype=torch.bool)
    chosen[sums.flatten().argsort(descending=True, stable=True)[:count]] = True
    return chosen.view(sums.shape).repeat_interleave(codes_per_latent, 1)


def check_share(name: str, share: float, *, lowest: bool = False) -> None:
    """Raise ConfigError for a share above 1 or not above 0; `lowest` allows 0."""
    if isinstance(share, Real) and 0 <= share <= 1 and (share > 0 or lowest):
        return
    bounds = "from 0 to 1" if lowest else "above 0 and at most 1"
    raise ConfigError(f"{name} must be {bounds}, got {share!r}")
