"""Drawing code grids from a prior.

Randomness belongs to the image: image i of seed s is made from its own uniform numbers, drawn ahead, and each code is
chosen by inverting the cumulative distribution with one of them. The same image comes out at any batch size, and the
decoding step holds no random generator.

Shapes: B images, T codes an image.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ...errors import ConfigError, DataError
from ..conditions.condition import Condition
from ..config import ORDERS, PriorConfig, SamplingConfig
from ..network import PriorNetwork
from .captured import capturing
from .causal import draw_causal
from .compiled import fused
from .masked import draw_masked
from .packed import laid_out

Progress = Callable[[int], object]
"""Called with the number of codes drawn since the last call."""


def image_uniforms(seed: int, first: int, n: int, tokens: int) -> Tensor:
    """Uniform numbers in [0, 1), (n, 2, tokens) float64; row r depends on (seed, first + r) alone.

    By place: one number chooses the code, the other its turn.
    """
    streams = [np.random.Philox(key=[seed, first + r]) for r in range(n)]
    rows = [np.random.Generator(stream).random((2, tokens)) for stream in streams]
    return torch.from_numpy(np.stack(rows)) if rows else torch.empty(0, 2, tokens, dtype=torch.float64)


@torch.no_grad()
def sample(
    prior: PriorNetwork,
    condition: Condition,
    uniforms: Tensor,
    settings: SamplingConfig,
    progress: Progress | None = None,
    *,
    given: Tensor | None = None,
    grid: tuple[int, int] | None = None,
    compile: bool = False,
    capture: bool = False,
) -> Tensor:
    """Codes (B, T) int64 for uniforms (B, 2, T).

    Args:
        progress: called after every step with the codes drawn in it, over all images.
        given: codes (B, T) that are to stay, -1 for those to draw; the same places in every row. A raster prior
            reads only those that come before.
        grid: another grid than the trained one, for priors whose positions are not learned.
        compile: run causal steps of one code an image compiled by `torch.compile`, once for each number of rows, and
            the choice of a code once for each settings; other steps stay as they are.
        capture: on a CUDA GPU, capture these steps as CUDA graphs and replay them. Graphs and their memory are kept
            with the prior, for the next batch of the same shape and settings.

    The prior must be in evaluation mode. With guidance each image takes two rows, with its condition and without.

    Raises:
        ConfigError: for an order that this prior does not know.
        DataError: for conditions that it was not trained with.
    """
    grid = grid or prior.config.grid
    B, T = len(uniforms), grid[0] * grid[1]
    if uniforms.shape != (B, 2, T):
        raise DataError(f"a grid of {grid} needs uniforms (B, 2, {T}), got {tuple(uniforms.shape)}")
    check_order(prior.config, settings)
    uniforms = uniforms.to(prior.device)
    codes = torch.full((B, T), -1, device=prior.device) if given is None else given.to(prior.device).clone()
    if not B:
        return codes
    known = (codes[:1] >= 0).all(0)
    if not torch.equal(codes >= 0, known.expand(B, T)):
        raise DataError("the given codes must stand at the same places in every row")
    draw = draw_masked if prior.config.objective == "masked" else draw_causal
    with laid_out(prior), fused(prior, compile), capturing(prior, capture and prior.device.type == "cuda"):
        return draw(prior, condition, uniforms, settings, progress or (lambda _: None), codes, known, grid)


def check_order(config: PriorConfig, settings: SamplingConfig) -> None:
    """Raises ConfigError for settings that a prior of this objective does not know."""
    orders = ORDERS[config.objective]
    if settings.order not in (None, *orders):
        raise ConfigError(
            f"order {settings.order} is not of {config.objective} priors; they know {', '.join(orders)}"
        )
    if config.objective == "raster" and settings.sampling_steps not in (None, config.tokens):
        raise ConfigError(
            "a raster prior draws one code a step; for fewer steps train one with objective random or masked"
        )
