"""Decoding a causal prior, in raster or any other order: one pass of the network a step, with a KV cache.

Shapes: B images, T codes an image, k codes drawn in one step, D width, V codebook size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..conditions.condition import Condition
from ..config import SamplingConfig
from ..network import PriorNetwork
from ..positions import Places
from .captured import Steps, steps_of
from .filters import draw, drawn_shares, guidance, guide, temperature
from .orders import drawing_order, group_sizes, step_count
from .step import State


def draw_causal(
    prior: PriorNetwork,
    condition: Condition,
    uniforms: Tensor,
    settings: SamplingConfig,
    progress: Callable[[int], object],
    codes: Tensor,
    known: Tensor,
    grid: tuple[int, int],
) -> Tensor:
    """One pass a step with a KV cache.

    Where k > 1 codes are drawn, the pass takes the slots of the codes drawn in the last step, which stay in the cache,
    and k - 1 more that read the last code and predict the next places but one. Those see what the last slot sees, so
    each code has the very probability that it would have if it came next; the cache forgets them. All other steps but
    the first are `step.draw_next`.
    """
    B, T = codes.shape
    order = drawing_order(prior.config, settings, uniforms[:, 1], known, grid)  # (T,) or (B, T)
    by_row = order.expand(B, T)
    ordered_known = known[by_row[0]] if B else known
    done = int(ordered_known.long().cumprod(0).sum())  # codes that are there at the start
    steps = T if prior.config.objective == "raster" else step_count(prior.config, settings)
    sizes = group_sizes(T - done, steps, settings.step_schedule)
    shares = drawn_shares(done, sizes, T)
    weights = [guidance(settings, share) for share in shares]
    temperatures = [temperature(settings, share) for share in shares]
    encoded = prior.encode(condition, B, grid)
    if not condition.empty and any(weight != 1 for weight in weights):
        encoded = encoded.cat(prior.encode(prior.conditions.without(condition), B, grid))
    state = State(
        codes=codes,
        uniforms=uniforms[:, 0].contiguous(),
        order=by_row.contiguous(),
        done=torch.tensor([done], device=prior.device),
        weights=_by_done(weights, done, sizes, T).to(prior.device),
        temperatures=_by_done(temperatures, done, sizes, T).to(prior.device),
        places=prior.places(order, grid),
        encoded=encoded,
    )
    slots = prior.config.prefix_length + T - 1 + max(sizes, default=1) - 1
    rows = _CachedRows(
        steps_of(prior, state, slots, settings, tempered=any(t != 1 for t in temperatures)), order, grid
    )
    for k, weight, heat in zip(sizes, weights, temperatures, strict=True):
        rows.draw(done, k, weight, heat)
        done += k
        progress(B * k)
    return rows.state.codes.clone() if prior.captures else codes


def _by_done(values: Sequence[float], done: int, sizes: Sequence[int], T: int) -> Tensor:
    """Values by step to values by the number of codes that are there before it, (T,) float32."""
    table = torch.ones(T)
    for value, size in zip(values, sizes, strict=True):
        table[done] = value
        done += size
    return table


class _CachedRows:
    """The rows of a batch in the network: with their condition, and while guidance is on also without."""

    def __init__(self, steps: Steps, order: Tensor, grid: tuple[int, int]) -> None:
        self.steps, self.state, self.cache = steps, steps.state, steps.cache
        self.prior, self.settings, self.grid = steps.prior, steps.settings, grid
        self.S, self.B, self.order = self.prior.config.prefix_length, len(self.state.codes), order
        self.filled = [0, 0]
        """Slots in the cache of the rows with the condition, and without."""

    def draw(self, done: int, k: int, weight: float, temperature: float) -> None:
        """Draws the k codes after the first `done` of the order, which are known."""
        guided = self.state.guided and weight != 1
        if k == 1 and done and all(n == self.S + done - 1 for n in self.filled[: 1 + guided]):
            self.cache.reserve(self.S + done)
            self.steps.draw(guided)
            self.filled[: 1 + guided] = [self.S + done] * (1 + guided)
            return
        place = self.state.order[:, done : done + k]
        logits = self._next_logits(done, k, weight, guided)  # (B, k, V)
        self.state.settle(
            place, draw(logits, self.state.uniforms.gather(1, place), self.settings, temperature)
        )

    def _next_logits(self, done: int, k: int, weight: float, guided: bool) -> Tensor:
        """Guided logits (B, k, V) of the k places after the first `done` of the order, whose codes are known."""
        if not guided:
            return self.prior.logits(self._pass(done, k, 0, self.B))
        if self.filled[0] == self.filled[1]:  # both halves in one pass
            return guide(self.prior.logits(self._pass(done, k, 0, 2 * self.B)), weight)
        halves = [self._pass(done, k, half * self.B, (half + 1) * self.B) for half in (0, 1)]
        return guide(self.prior.logits(torch.cat(halves)), weight)

    def _pass(self, done: int, k: int, start: int, end: int) -> Tensor:
        """Outputs (rows, k, D) for the next k places; fills the cache up to the slot that predicts the first."""
        encoded, cache = self.state.encoded, self.cache
        if (start, end) != (0, len(encoded.prefix)):
            encoded, cache = encoded.rows(start, end), cache.rows(start, end)
        first, last = self.filled[start >= self.B], self.S + done  # slots of this pass, without those beside
        read = self.state.codes.gather(1, self.state.order[:, max(0, first - self.S) : done])
        x = self.prior.code_embedding(read.repeat((end - start) // self.B, 1))
        if first < self.S:
            x = torch.cat([encoded.prefix[:, first:], x], dim=1)  # (rows, last - first, D)
        places = self.state.places.slice(first, last)
        if k > 1:
            x = torch.cat([x, x[:, -1:].expand(-1, k - 1, -1)], dim=1)
            places = places.join(self._beside(done, k))
        mask = (
            self._mask(encoded.prefix_visible, first, last, k)
            if k > 1 or (first and last - first > 1)
            else None
        )
        y = self.prior.step(x, places.repeat(len(x)), encoded, cache, first, mask)
        for half in {start >= self.B, end > self.B}:
            self.filled[half] = last
        return y[:, last - first - 1 :]

    def _beside(self, done: int, k: int) -> Places:
        """Places of the k - 1 slots that read the last code and predict the next places but one."""
        order = self.order
        held = order[..., done - 1 : done] if done else torch.full_like(order[..., :1], -1)
        target = order[..., done + 1 : done + k]
        return self.prior.positions(held.expand_as(target), target, self.grid, self.prior.device)

    def _mask(self, visible: Tensor | None, first: int, last: int, k: int) -> Tensor:
        """(1 or rows, 1, n, keys): causal, but those beside the last slot see not it but themselves."""
        n = last - first + k - 1
        query = torch.arange(first, first + n, device=self.prior.device)[:, None]
        key = torch.arange(first + n, device=self.prior.device)
        mask = torch.where(query < last, key <= query, (key < last - 1) | (key == query))[None, None]
        if visible is not None:
            padded = torch.nn.functional.pad(visible, (0, first + n - visible.shape[1]), value=True)
            mask = mask & padded[:, None, None] | (key == query)
        return mask
