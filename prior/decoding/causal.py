"""Sampling from a causal prior, in raster or any other order: one pass of the network per step, with a KV cache.

Shapes: B images, T tokens, k codes of one step, S prefix length, D width, V codebook size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from ..positions import TokenPositions
from .decoder import Decoder
from .filters import draw_codes, guide
from .orders import sampling_order
from .request import SamplingRequest
from .schedules import Step, make_schedule
from .step import DecodingBatch, DecodingState, Rows


def sample_causal(decoder: Decoder, request: SamplingRequest) -> Tensor:
    """Return codes (B, T).

    A step of k > 1 codes runs the tokens of the codes sampled in the last step, which stay in the cache, and k - 1
    extra tokens, which hold the last code and predict the positions after the next one. Extra tokens attend to what the
    last token attends to, so each code has exactly the probability that it would have as the next one; the cache
    forgets them. Steps of one code are `Decoder.decode_next`. Known codes take no step: the next pass reads them.
    """
    settings, B = request.settings, len(request.codes)
    order = sampling_order(decoder.config, settings, request.uniforms[:, 1], request.known, request.grid)
    schedule = _schedule(decoder, request, order)
    batch = decoder.begin(
        _initial_state(decoder, request, order, schedule),
        _sequence_length(decoder, request, schedule),
        settings,
        tempered=any(step.temperature != 1 for step in schedule),
    )
    sampling = _CausalSampling(decoder, batch, order, request.grid)
    for step in schedule:
        sampling.run(step)
        request.progress(B * step.size)
        request.watch(batch.state.codes)
    return batch.state.codes.clone()  # the decoder may reuse the memory of the batch


def _schedule(decoder: Decoder, request: SamplingRequest, order: Tensor) -> list[Step]:
    """Return the steps that sample codes: all after the known codes at the start of the order.

    Only a raster order has known codes further on, and its steps have one code.
    """
    known = request.known[order if order.dim() == 1 else order[0]].tolist()
    start = [*known, False].index(False)
    schedule = make_schedule(decoder.config, request.settings, start, len(known))
    return [step for step in schedule if not known[step.start]]


def _sequence_length(decoder: Decoder, request: SamplingRequest, schedule: Sequence[Step]) -> int:
    """Return the most tokens in the cache, extra ones included."""
    extra = max((step.size for step in schedule), default=1) - 1
    return decoder.config.prefix_length + request.codes.shape[1] - 1 + extra


def _initial_state(
    decoder: Decoder, request: SamplingRequest, order: Tensor, schedule: Sequence[Step]
) -> DecodingState:
    condition, grid, (B, T) = request.condition, request.grid, request.codes.shape
    encoded = decoder.encode(condition, B, grid)
    if not condition.empty and any(step.guidance != 1 for step in schedule):
        encoded = encoded.cat(decoder.encode_unconditional(condition, B, grid))
    start = schedule[0].start if schedule else T
    guidance, temperatures = torch.ones(T), torch.ones(T)
    for step in schedule:
        guidance[step.start], temperatures[step.start] = step.guidance, step.temperature
    return DecodingState(
        codes=request.codes,
        uniforms=request.uniforms[:, 0].contiguous(),
        order=order.expand(B, T).contiguous(),
        done=torch.tensor([start], device=decoder.device),
        guidance=guidance.to(decoder.device),
        temperatures=temperatures.to(decoder.device),
        positions=decoder.positions_in_order(order, grid),
        encoded=encoded,
    )


@dataclass
class _CausalSampling:
    """A batch while it is sampled: conditional rows, and with guidance unconditional rows after them."""

    decoder: Decoder
    batch: DecodingBatch
    order: Tensor
    """(T,) or (B, T)."""
    grid: tuple[int, int]
    filled: list[int] = field(default_factory=lambda: [0, 0])
    """Tokens in the cache of the conditional and of the unconditional rows."""

    def run(self, step: Step) -> None:
        """Sample the codes of one step."""
        state, S = self.batch.state, self.decoder.config.prefix_length
        guided = state.guided and step.guidance != 1
        halves = slice(0, 1 + guided)
        if step.size == 1 and step.start and all(n == S + step.start - 1 for n in self.filled[halves]):
            self.batch.cache.reserve(S + step.start)
            self.decoder.decode_next(self.batch, guided=guided)
            self.filled[halves] = [S + step.start] * (1 + guided)
            return
        state.done.fill_(step.start)  # known codes before this step had none of their own
        target = state.order[:, step.start : step.start + step.size]  # (B, k)
        logits = self._next_logits(step, guided)  # (B, k, V)
        uniform = state.uniforms.gather(1, target)
        state.write(target, draw_codes(logits, uniform, self.batch.settings, step.temperature))

    def _next_logits(self, step: Step, guided: bool) -> Tensor:
        """Return the guided logits (B, k, V) of the codes of a step."""
        B, logits = len(self.batch.state.codes), self.decoder.logits
        if not guided:
            return logits(self._pass(step, 0, B))
        if self.filled[0] == self.filled[1]:  # all rows in one pass
            return guide(logits(self._pass(step, 0, 2 * B)), step.guidance)
        halves = [self._pass(step, half * B, (half + 1) * B) for half in (0, 1)]
        return guide(logits(torch.cat(halves)), step.guidance)

    def _pass(self, step: Step, start: int, end: int) -> Tensor:
        """Return the outputs (rows, k, D) of some rows, and fill their cache up to the token of the last known code."""
        state, S, B = self.batch.state, self.decoder.config.prefix_length, len(self.batch.state.codes)
        rows = Rows(state.encoded, self.batch.cache).part(start, end)
        first, last = self.filled[start >= B], S + step.start  # the pass's tokens, without the extra ones
        codes = state.codes.gather(1, state.order[:, max(0, first - S) : step.start])
        x = self.decoder.embed(codes.repeat((end - start) // B, 1))
        if first < S:
            x = torch.cat([rows.encoded.prefix[:, first:], x], dim=1)  # (rows, last - first, D)
        positions = state.positions.slice(first, last)
        mask = None
        if step.size > 1:
            x = torch.cat([x, x[:, -1:].expand(-1, step.size - 1, -1)], dim=1)
            positions = positions.cat(self._extra_positions(step))
        if step.size > 1 or (first and last - first > 1):
            mask = _pass_mask(rows.encoded.prefix_visible, first, last, x)
        y = self.decoder.forward(x, positions.repeat(len(x)), rows, first, mask)
        for half in {start >= B, end > B}:
            self.filled[half] = last
        return y[:, last - first - 1 :]

    def _extra_positions(self, step: Step) -> TokenPositions:
        """Return the positions of the k - 1 extra tokens."""
        order, start = self.order, step.start
        held = order[..., start - 1 : start] if start else torch.full_like(order[..., :1], -1)
        target = order[..., start + 1 : start + step.size]
        return self.decoder.positions(held.expand_as(target), target, self.grid)


def _pass_mask(visible: Tensor | None, first: int, last: int, x: Tensor) -> Tensor:
    """Return a mask (1 or rows, 1, n, keys): causal; extra tokens, from `last` on, attend to themselves and to what the
    token before `last` attends to, except that token."""
    end = first + x.shape[1]
    query = torch.arange(first, end, device=x.device)[:, None]
    key = torch.arange(end, device=x.device)
    mask = torch.where(query < last, key <= query, (key < last - 1) | (key == query))[None, None]
    if visible is not None:
        padded = F.pad(visible, (0, end - visible.shape[1]), value=True)
        mask = mask & padded[:, None, None] | (key == query)
    return mask
