"""The steps of a batch on a CUDA GPU, captured once and replayed: a step of a small prior is some hundred short
kernels, and starting them one by one takes longer than running them.

A graph is captured for each room of the cache, with and without guidance, and kept with the memory that it reads and
writes, so that the next batch of the same shape and settings replays it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from ..config import SamplingConfig
from .cache import KVCache
from .step import State, draw_next

if TYPE_CHECKING:
    from ..network import PriorNetwork

Step = Callable[[], None]


class Steps:
    """The steps of one code each of a batch, one after the other."""

    def __init__(
        self, prior: PriorNetwork, state: State, cache: KVCache, settings: SamplingConfig, tempered: bool
    ) -> None:
        self.prior, self.state, self.cache = prior, state, cache
        self.settings, self.tempered = settings, tempered

    def draw(self, guided: bool) -> None:
        """Draws the next code of every image; the cache must have room for it."""
        draw_next(self.prior, self.state, self.cache, self.settings, guided=guided, tempered=self.tempered)


class CapturedSteps(Steps):
    """The same, replayed from graphs wherever one was captured before."""

    def __init__(self, key: tuple[Any, ...], *given: Any) -> None:
        super().__init__(*given)
        self.key = key
        self.warm: set[tuple[int, bool]] = set()
        self.graphs: dict[tuple[int, bool], Step] = {}

    def draw(self, guided: bool) -> None:
        """The first step of its kind runs as it is, and so compiles what has to be; the second is captured."""
        kind = self.cache.room, guided
        step = partial(super().draw, guided)
        if kind not in self.warm:
            self.warm.add(kind)
            warm_up(step, self.prior.device)
            return
        if kind not in self.graphs:
            self.graphs[kind] = recorded_or_not(step, self.prior.device)
        self.graphs[kind]()

    def load(self, state: State) -> None:
        """Begins another batch in the memory of the last."""
        for kept, fresh in zip(self.state.tensors(), state.tensors(), strict=True):
            kept.copy_(fresh)
        self.cache.clear()
        for pair, fresh_pair in zip(self.cache.memory, self.prior.memory(state.encoded), strict=True):
            for kept, fresh in zip(pair, fresh_pair, strict=True):
                kept.copy_(fresh)


def steps_of(
    prior: PriorNetwork, state: State, slots: int, settings: SamplingConfig, *, tempered: bool
) -> Steps:
    """The steps of a batch that takes so many slots; captured ones may hold it in other memory than the given."""
    if not prior.captures:
        return Steps(prior, state, prior.new_cache(state.encoded, slots), settings, tempered)
    key = _key(prior, state, slots, settings, tempered)
    steps = prior.recording
    if steps is None or steps.key != key:
        steps = prior.recording = None  # its memory is given back before more is taken
        steps = CapturedSteps(key, prior, state, prior.new_cache(state.encoded, slots), settings, tempered)
        prior.recording = steps
    else:
        steps.load(state)
    return steps


@contextmanager
def capturing(prior: PriorNetwork, wanted: bool) -> Iterator[None]:
    """In the block the prior's steps of one code are captured and replayed, where that is wanted."""
    before, prior.captures = prior.captures, wanted
    try:
        yield
    finally:
        prior.captures = before


def warm_up(step: Step, device: torch.device) -> None:
    """Runs a step beside the stream of the others, as it has to be before it is captured."""
    with torch.cuda.device(device):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            step()
        torch.cuda.current_stream().wait_stream(stream)


def record(step: Step, device: torch.device) -> Step:
    """Captures a step, which does not run it, to what replays it."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device), torch.cuda.graph(graph):
        step()

    def replay() -> None:
        with torch.cuda.device(device):
            graph.replay()

    return replay


def recorded_or_not(step: Step, device: torch.device) -> Step:
    """Where capturing fails, sampling goes on without."""
    try:
        return record(step, device)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        warnings.warn(f"the sampling step could not be captured as a CUDA graph ({reason})", stacklevel=2)
        return step


def _key(
    prior: PriorNetwork, state: State, slots: int, settings: SamplingConfig, tempered: bool
) -> tuple[Any, ...]:
    """What has to be the same for a graph to fit: shapes, settings, and where the weights are."""
    shapes = [(t.shape, t.dtype) for t in state.tensors()]
    weights = [t.data_ptr() for t in (*prior.parameters(), *prior.buffers())]
    return (*shapes, slots, settings, tempered, state.guided, prior.fused, *weights)
