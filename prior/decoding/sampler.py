"""Sampling of code grids from a prior.

Each image has its own random numbers, drawn ahead from its seed and index; one number chooses a code by inverting the
cumulative distribution. So an image is the same at any batch size, and a decoding step holds no random generator.

Shapes: B images, T tokens.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...errors import DataError
from ...options import whole_number
from ..conditions.condition import Condition
from ..config import SamplingConfig, check_sampling
from ..network import PriorNetwork
from .causal import sample_causal
from .decoder import Decoder
from .masked import sample_masked
from .request import Progress, SamplingRequest, Watch

MAX_SEED = 2**64 - 1
"""Largest seed and image number: the key of the generator has 64 bits for each."""


def image_uniforms(seed: int, first: int, n: int, tokens: int) -> Tensor:
    """Return uniform numbers in [0, 1), (n, 2, tokens) float64; row r depends only on `seed` and `first + r`.

    Raises:
        ConfigError: for a seed or image number that is not an integer from 0 to 2**64 - 1.
    """
    seed, first = (
        whole_number(name, value, 0, MAX_SEED) for name, value in (("seed", seed), ("first", first))
    )
    if n:
        whole_number("first + n - 1", first + n - 1, 0, MAX_SEED)
    keys = [np.array([seed, first + r], dtype=np.uint64) for r in range(n)]
    rows = [np.random.Generator(np.random.Philox(key=key)).random((2, tokens)) for key in keys]
    return torch.from_numpy(np.stack(rows)) if rows else torch.empty(0, 2, tokens, dtype=torch.float64)


@torch.no_grad()
def sample(
    prior: PriorNetwork | Decoder,
    condition: Condition,
    uniforms: Tensor,
    settings: SamplingConfig,
    progress: Progress | None = None,
    *,
    known: Tensor | None = None,
    grid: tuple[int, int] | None = None,
    watch: Watch | None = None,
) -> Tensor:
    """Return codes (B, T) int64 for uniform numbers (B, 2, T), see `image_uniforms`.

    Args:
        prior: a network, or its decoder, which keeps packed weights and compiled steps from call to call.
        condition: with guidance, each image takes two rows: with its condition and without.
        progress: called after every step with the number of codes sampled in it, over all images.
        known: codes (B, T) to keep, -1 for those to sample; the same positions in every row. A raster prior reads only
            known codes that come before.
        grid: another grid than the trained one, for priors whose positions are not learned.
        watch: called after every step with the codes (B, T) so far, for previews.

    Raises:
        ConfigError: for an order or a number of steps that does not work with the prior's objective.
        DataError: for conditions that the prior was not trained with, or tensors of other shapes.
    """
    decoder = prior if isinstance(prior, Decoder) else Decoder(prior)
    grid = grid or decoder.config.grid
    B, T = len(uniforms), grid[0] * grid[1]
    if uniforms.shape != (B, 2, T):
        raise DataError(f"uniforms must be (B, 2, {T}) for a grid of {grid}, got {tuple(uniforms.shape)}")
    check_sampling(decoder.config, settings)
    codes = _initial_codes(known, (B, T)).to(decoder.device)
    if not B:
        return codes
    decoder.refresh()
    request = SamplingRequest(
        condition, uniforms.to(decoder.device), settings, codes, grid, progress or _ignore, watch or _ignore
    )
    return (sample_masked if decoder.config.objective == "masked" else sample_causal)(decoder, request)


def _ignore(_: object) -> None:
    """Do nothing."""


def _initial_codes(known: Tensor | None, shape: tuple[int, int]) -> Tensor:
    """Return a copy of the known codes, -1 elsewhere."""
    if known is None:
        return torch.full(shape, -1)
    if tuple(known.shape) != shape:
        raise DataError(f"known codes must be {shape}, got {tuple(known.shape)}")
    if not ((known >= 0) == (known[:1] >= 0)).all():
        raise DataError("known codes must be at the same positions in every row")
    return known.long().clone()
