"""The way from one image to another, through their tokens.

Shapes: h, w grid, q codes per latent.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...data.image import check_background
from ...options import whole_number
from ...prior.decoding.orders import halton_order
from ...tokenizer.images import ImageLike
from ..canvas import Canvas
from ..models import Models
from ..prepare import fixed_values
from ..request import Features, Labels, Texts
from .source import read_source
from .variation import bits_of, check_share, largest

STEPS, MAX_STEPS = 8, 99
STRENGTH = 0.3


def mixing(
    models: Models,
    a: ImageLike,
    b: ImageLike,
    *,
    steps: int = STEPS,
    strength: float = STRENGTH,
    label: Labels = None,
    text: Texts = None,
    features: Features = None,
    background: str = "white",
) -> list[Canvas]:
    """Return the canvases of a strip of images from `a` to `b`; `Sampling.stream` samples what they lack.

    From step to step more tokens are those of `b`, in an order that is spread evenly over the grid. Tokens of the two
    images do not fit together; of such a mixture the least likely tokens are sampled anew. The first image is the
    reconstruction of `a`, the last one that of `b`.

    Args:
        steps: number of images, at least 2.
        strength: share of the tokens that is sampled anew halfway, from 0 to 1. It falls to 0 towards both ends.
        label, text, features: condition under which tokens are likely or not; of several the first.
        background: colour behind transparent pixels, a name or #rrggbb.

    Raises:
        ConfigError: a number or colour out of range, or a condition that the prior does not have.
        DataError: an image cannot be read.
    """
    steps = whole_number("steps", steps, 2, MAX_STEPS)
    check_share("strength", strength, lowest=True)
    check_background(background)
    values = fixed_values(models.loaders, label=label, text=text, features=features)
    first, last = (
        read_source(models, image, background, name).encode(models)
        for image, name in ((a, "the first image"), (b, "the second image"))
    )
    q = models.tokenizer.config.codes_per_latent
    canvases = []
    for step in range(steps):
        share = step / (steps - 1)
        codes = torch.where(taken(first.shape, share, q), last, first)
        redrawn = largest(bits_of(models, codes, values), 4 * share * (1 - share) * strength, q)
        canvases.append(Canvas(codes.masked_fill(redrawn, -1), leads=step == 0))
    return canvases


def taken(grid: torch.Size, share: float, codes_per_latent: int) -> Tensor:
    """Return (h, w) bool: a share of the latents, spread evenly; a larger share holds every smaller one."""
    h, w = grid[0], grid[1] // codes_per_latent
    count = round(share * h * w)
    chosen = torch.zeros(h * w, dtype=torch.bool)
    chosen[halton_order((h, w))[:count]] = True
    return chosen.view(h, w).repeat_interleave(codes_per_latent, 1)
