"""Sampling from a masked prior: a few passes over the whole grid (MaskGIT, arXiv:2202.04200, section 3.2).

Shapes: B images, T tokens, k codes of one step, V codebook size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..conditions.condition import EncodedCondition
from .decoder import Decoder
from .filters import choose, guide, probabilities
from .orders import sampling_order
from .request import SamplingRequest
from .schedules import Step, make_schedule


def sample_masked(decoder: Decoder, request: SamplingRequest) -> Tensor:
    """Return codes (B, T).

    Each pass samples all unknown codes and keeps k of them: the next ones of the order; or with the order `confidence`
    the most likely ones, under Gumbel noise that fades to zero.
    """
    codes, settings, (B, T) = request.codes, request.settings, request.codes.shape
    order = sampling_order(decoder.config, settings, request.uniforms[:, 1], request.known, request.grid)
    rank = order.expand(B, T).argsort(1)  # (B, T), when each position is sampled
    logits_of = _MaskedLogits(decoder, request)
    for step in make_schedule(decoder.config, settings, int(request.known.sum()), T):
        sampled, likelihood = _sample_unknown(request, logits_of(step), step.temperature)
        score = -rank.double()
        if settings.order == "confidence":
            remaining = 1 - (step.start + step.size) / T
            score = likelihood.log() + settings.confidence_noise * remaining * _gumbel(request.uniforms[:, 1])
        kept = score.masked_fill(codes >= 0, -torch.inf).topk(step.size, dim=1).indices  # (B, k)
        codes.scatter_(1, kept, sampled.gather(1, kept))
        request.progress(B * step.size)
        request.watch(codes)
    return codes


class _MaskedLogits:
    """Logits (B, T, V) of the current codes, guided where the step asks for it."""

    def __init__(self, decoder: Decoder, request: SamplingRequest) -> None:
        self.decoder, self.request = decoder, request
        self.conditional = decoder.encode(request.condition, len(request.codes), request.grid)
        self.both: EncodedCondition | None = None

    def __call__(self, step: Step) -> Tensor:
        codes, condition, grid = self.request.codes, self.request.condition, self.request.grid
        if step.guidance == 1 or condition.empty:
            return self.decoder.masked_logits(codes, self.conditional, grid)
        if self.both is None:
            self.both = self.conditional.cat(self.decoder.encode_unconditional(condition, len(codes), grid))
        return guide(self.decoder.masked_logits(codes.repeat(2, 1), self.both, grid), step.guidance)


def _sample_unknown(request: SamplingRequest, logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return a code and its probability for every unknown position, (B, T) each; for the others their code and 1."""
    codes, uniforms = request.codes, request.uniforms[:, 0]
    sampled, likelihood = codes.clone(), torch.ones_like(uniforms)
    for row in range(len(codes)):  # row by row: the probabilities of a whole batch take gigabytes
        unknown = (codes[row] < 0).nonzero()[:, 0]
        p = probabilities(logits[row, unknown], request.settings, temperature)
        sampled[row, unknown] = choose(p, uniforms[row, unknown])
        likelihood[row, unknown] = p.gather(1, sampled[row, unknown, None])[:, 0].double()
    return sampled, likelihood


def _gumbel(uniforms: Tensor) -> Tensor:
    """Return Gumbel noise from uniform numbers."""
    return -torch.log(-torch.log(uniforms.clamp(1e-12, 1 - 1e-12)))
