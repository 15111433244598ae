"""Decoding a causal prior, in raster or any other order: one pass of the network a step, with a KV cache.

Shapes: B images, T codes an image, k codes drawn in one step, D width, V codebook size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .cache import KVCache
from .choice import draw, drawn_shares, guidance, guide, temperature
from .condition import Condition
from .config import SamplingConfig
from .fused import fused_draw
from .model import Prior
from .orders import drawing_order, group_sizes, step_count
from .positions import Places


def draw_causal(
    prior: Prior,
    condition: Condition,
    uniforms: Tensor,
    settings: SamplingConfig,
    progress: Callable[[int], object],
    codes: Tensor,
    known: Tensor,
    grid: tuple[int, int],
) -> Tensor:
    """One pass a step with a KV cache.

    The pass takes the slots of the codes drawn in the last step, which stay in the cache, and where k > 1 codes are
    drawn, k - 1 more that read the last code and predict the next places but one. Those see what the last slot
    sees, so each code has the very probability that it would have if it came next; the cache forgets them.
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
    guided = not condition.empty and any(weight != 1 for weight in weights)
    network = _CachedRows(prior, condition, order, sizes, grid, B, guided)
    steady = settings.final_temperature is None and max(sizes, default=1) == 1
    choice = fused_draw if prior.fused and steady else draw
    for k, weight, share in zip(sizes, weights, shares, strict=True):
        logits = network.next_logits(codes, by_row, done, k, weight)  # (B, k, V)
        place = by_row[:, done : done + k]
        drawn = choice(logits, uniforms[:, 0].gather(1, place), settings, temperature(settings, share))
        old = codes.gather(1, place)
        codes.scatter_(1, place, torch.where(old >= 0, old, drawn))
        done += k
        progress(B * k)
    return codes


class _CachedRows:
    """The rows of a batch in the network: with their condition, and while guidance is on also without."""

    def __init__(
        self,
        prior: Prior,
        condition: Condition,
        order: Tensor,
        sizes: list[int],
        grid: tuple[int, int],
        B: int,
        guided: bool,
    ) -> None:
        """`guided`: guidance is on at some step, so each image needs two rows."""
        self.prior, self.grid, self.B = prior, grid, B
        self.encoded = prior.encode(condition, B, grid)
        self.guided = guided
        if guided:
            self.encoded = self.encoded.beside(prior.encode(prior.conditions.without(condition), B, grid))
        self.S = prior.config.condition_slots
        self.order = order
        self.places = prior.places(order, grid)
        slots = self.S + order.shape[-1] - 1 + max(sizes, default=1) - 1
        self.cache: KVCache = prior.new_cache(self.encoded, slots)
        self.filled = [0, 0]
        """Slots in the cache of the rows with the condition, and without."""

    def next_logits(self, codes: Tensor, order: Tensor, done: int, k: int, weight: float) -> Tensor:
        """Guided logits (B, k, V) of the k places after the first `done` of the order, whose codes are known."""
        if not self.guided or weight == 1:
            return self.prior.logits(self._pass(codes, order, done, k, 0, self.B))
        if self.filled[0] == self.filled[1]:  # both halves in one pass
            y = self._pass(codes.repeat(2, 1), order.repeat(2, 1), done, k, 0, 2 * self.B)
            return guide(self.prior.logits(y), weight)
        halves = [self._pass(codes, order, done, k, half * self.B, (half + 1) * self.B) for half in (0, 1)]
        return guide(self.prior.logits(torch.cat(halves)), weight)

    def _pass(self, codes: Tensor, order: Tensor, done: int, k: int, start: int, end: int) -> Tensor:
        """Outputs (rows, k, D) for the next k places; fills the cache up to the slot that predicts the first."""
        encoded, cache = self.encoded, self.cache
        if (start, end) != (0, len(encoded.prefix)):
            encoded, cache = encoded.rows(start, end), cache.rows(start, end)
        first, last = self.filled[start >= self.B], self.S + done  # slots of this pass, without those beside
        read = order[:, max(0, first - self.S) : done]
        x = self.prior.code_embedding(codes.gather(1, read))
        if first < self.S:
            x = torch.cat([encoded.prefix[:, first:], x], dim=1)  # (rows, last - first, D)
        places = slice_places(self.places, first, last)
        if k > 1:
            x = torch.cat([x, x[:, -1:].expand(-1, k - 1, -1)], dim=1)
            places = join_places(places, self._beside(done, k))
        if places.place.dim() == 2:
            places = _rows_of(places, len(x))
        mask = self._mask(encoded.visible, first, last, k) if k > 1 or (first and last - first > 1) else None
        y = self.prior.step(x, places, encoded, cache, first, mask)
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


def slice_places(places: Places, start: int, end: int) -> Places:
    """The places of the slots from `start` to `end`."""
    query, key, target = (t if t is None else t[..., start:end, :, :] for t in places[2:])
    added = places.added if places.added is None else places.added[..., start:end, :]
    place = places.place[..., start:end]
    return Places(place, added, key if places.query is places.key else query, key, target)


def join_places(places: Places, more: Places) -> Places:
    """The places of two runs of slots, one after the other."""
    dims = (-2, -3, -3, -3)
    pairs = zip(places[1:], more[1:], dims, strict=True)
    place = torch.cat([places.place, more.place], dim=-1)
    return Places(place, *(a if a is None or b is None else torch.cat([a, b], dim=d) for a, b, d in pairs))


def _rows_of(places: Places, rows: int) -> Places:
    """Places by row (B, ...) for rows that hold the batch once or twice."""
    times = rows // len(places.place)
    return Places(
        places.place.repeat(times, 1), *(p if p is None else torch.cat([p] * times) for p in places[1:])
    )
