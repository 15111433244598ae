"""Drawing code grids from a prior, one code at a time with a KV cache.

Randomness belongs to the image: image i of seed s is made from its own uniform numbers, drawn ahead, and each
code is chosen by inverting the cumulative distribution with one of them. The same image comes out at any batch
size, and the decoding step holds no random generator.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .config import SamplingConfig
from .model import Prior

Progress = Callable[[int], object]
"""Called with the number of codes drawn since the last call."""


def image_uniforms(seed: int, first: int, n: int, tokens: int) -> Tensor:
    """Uniform numbers in [0, 1), (n, tokens) float64; row r depends on (seed, first + r) alone."""
    streams = [np.random.Philox(key=[seed, first + r]) for r in range(n)]
    rows = [np.random.Generator(stream).random(tokens) for stream in streams]
    return torch.from_numpy(np.stack(rows)) if rows else torch.empty(0, tokens, dtype=torch.float64)


@torch.no_grad()
def sample(
    prior: Prior,
    label: Tensor | None,
    uniforms: Tensor,
    settings: SamplingConfig,
    progress: Progress | None = None,
    *,
    features: Tensor | None = None,
) -> Tensor:
    """Codes (B, T) int64 for uniforms (B, T).

    Args:
        label: labels (B,), -1 for none; or None for none at all.
        progress: called after every code of the batch.
        features: (B, S, F) for a prior that takes them in place of labels; None for none at all.

    The prior must be in evaluation mode. With cfg_scale other than 1, each image takes two rows: with its
    condition and without.
    """
    B, T = uniforms.shape
    uniforms = uniforms.to(prior.device)
    condition = prior.condition(B, label, features)
    guided = settings.cfg_scale != 1 and (prior.config.classes > 0 or features is not None)
    if guided:
        condition = torch.cat([condition, prior.embedding.without(condition)])
    cache = prior.new_cache(condition)
    codes = torch.empty(B, T, dtype=torch.long, device=prior.device)
    x, slot = prior.embedding(condition), 0  # (B or 2B, S, D)
    for t in range(T):
        logits = prior.step(x, slot, cache)  # (B or 2B, V)
        slot += x.shape[1]
        if guided:
            logits = guide(logits, settings.cfg_scale)  # (B, V)
        codes[:, t] = choose(probabilities(logits, settings), uniforms[:, t])
        if progress:
            progress(B)
        following = codes[:, t].repeat(2) if guided else codes[:, t]
        x = prior.code_embedding(following)[:, None]
    return codes


def guide(logits: Tensor, scale: float) -> Tensor:
    """Logits (2B, V), first with the condition and then without, to guided logits (B, V)."""
    conditional, unconditional = logits.chunk(2)
    return unconditional + scale * (conditional - unconditional)


def probabilities(logits: Tensor, settings: SamplingConfig) -> Tensor:
    """Logits (B, V) to the float64 probabilities left by temperature, top-k, min-p and top-p, in that order."""
    logits = logits.double() / settings.temperature
    if 0 < settings.top_k < logits.shape[-1]:
        kth = logits.topk(settings.top_k).values[:, -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    p = logits.softmax(-1)
    if settings.min_p > 0:
        p = p.masked_fill(p < settings.min_p * p.amax(-1, keepdim=True), 0)
    if settings.top_p < 1:
        p = keep_top_p(p / p.sum(-1, keepdim=True), settings.top_p)
    return p / p.sum(-1, keepdim=True)


def keep_top_p(p: Tensor, top_p: float) -> Tensor:
    """Zeroes all but the likeliest codes whose total first reaches top_p (nucleus, arXiv:1904.09751)."""
    ordered, index = p.sort(descending=True)
    before = ordered.cumsum(-1) - ordered
    return torch.zeros_like(p).scatter(-1, index, ordered.masked_fill(before >= top_p, 0))


def choose(p: Tensor, uniform: Tensor) -> Tensor:
    """Inverts the cumulative distribution: p (B, V), uniform (B,) in [0, 1) to codes (B,)."""
    cumulative = p.cumsum(-1)
    target = uniform[:, None] * cumulative[:, -1:]  # rounding may leave the total beside 1
    return torch.searchsorted(cumulative, target, right=True).squeeze(-1).clamp_(max=p.shape[-1] - 1)
