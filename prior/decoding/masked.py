"""Decoding a masked prior: a few passes over the whole grid (MaskGIT, arXiv:2202.04200, section 3.2).

Shapes: B images, T codes an image, k codes drawn in one step, V codebook size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..conditions.condition import Condition
from ..config import SamplingConfig
from ..network import PriorNetwork
from .filters import choose, drawn_shares, guidance, guide, probabilities, temperature
from .orders import drawing_order, group_sizes, step_count


def draw_masked(
    prior: PriorNetwork,
    condition: Condition,
    uniforms: Tensor,
    settings: SamplingConfig,
    progress: Callable[[int], object],
    codes: Tensor,
    known: Tensor,
    grid: tuple[int, int],
) -> Tensor:
    """A few passes over the whole grid, each of which settles some codes (MaskGIT, arXiv:2202.04200, section 3.2).

    With the order `confidence` a pass keeps the codes it is surest of, under Gumbel noise that fades to nothing; any
    other order says by itself which codes are next.
    """
    B, T = codes.shape
    order = drawing_order(prior.config, settings, uniforms[:, 1], known, grid).expand(B, T)
    turn = order.argsort(1)  # (B, T), when each place is drawn
    by_confidence = settings.order == "confidence"
    gumbel = -torch.log(-torch.log(uniforms[:, 1].clamp(1e-12, 1 - 1e-12)))
    done = int(known.sum())
    sizes = group_sizes(T - done, step_count(prior.config, settings), settings.step_schedule)
    encoded, without = prior.encode(condition, B, grid), None
    for k, share in zip(sizes, drawn_shares(done, sizes, T), strict=True):
        weight = guidance(settings, share)
        if weight == 1 or condition.empty:
            logits = prior.masked_logits(codes, encoded, grid)  # (B, T, V)
        else:
            without = without or encoded.cat(prior.encode(prior.conditions.without(condition), B, grid))
            logits = guide(prior.masked_logits(codes.repeat(2, 1), without, grid), weight)
        drawn, likelihood = draw_open(codes, logits, uniforms[:, 0], settings, share)
        score = -turn.double()
        if by_confidence:
            score = likelihood.log() + settings.confidence_noise * (1 - (done + k) / T) * gumbel
        place = score.masked_fill(codes >= 0, -torch.inf).topk(k, dim=1).indices  # (B, k)
        codes.scatter_(1, place, drawn.gather(1, place))
        done += k
        progress(B * k)
    return codes


def draw_open(
    codes: Tensor, logits: Tensor, uniforms: Tensor, settings: SamplingConfig, share: float
) -> tuple[Tensor, Tensor]:
    """A code for every place that is open yet, and its probability, (B, T) each; elsewhere the old one and 1."""
    drawn, likelihood = codes.clone(), torch.ones_like(uniforms)
    for row in range(len(codes)):  # row by row: probabilities of a whole batch take gigabytes
        place = (codes[row] < 0).nonzero()[:, 0]
        p = probabilities(logits[row, place], settings, temperature(settings, share))
        drawn[row, place] = choose(p, uniforms[row, place])
        likelihood[row, place] = p.gather(1, drawn[row, place, None])[:, 0].double()
    return drawn, likelihood
