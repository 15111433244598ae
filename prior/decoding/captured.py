"""Decoding steps captured as CUDA graphs and replayed: a step of a small prior is some hundred short kernels, and
launching them one by one takes longer than running them.

A graph is captured for each capacity of the cache, with and without guidance. It is kept with the memory that it reads
and writes, so that the next batch of the same shape and settings replays it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from .step import DecodingBatch, DecodingState

Step = Callable[[], None]


class Recorder(Protocol):
    """Records a step, to replay it."""

    def warm_up(self, step: Step) -> None:
        """Run a step in the way that recording it requires."""

    def record(self, step: Step) -> Step:
        """Return a function that replays the step. The tensors it writes are as before."""


class CudaGraphs:
    """Records steps as CUDA graphs on one device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def warm_up(self, step: Step) -> None:
        """Run a step on a side stream, as CUDA graphs require."""
        with torch.cuda.device(self.device):
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                step()
            torch.cuda.current_stream().wait_stream(stream)

    def record(self, step: Step) -> Step:
        """Capture a step, which does not run it."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self.device), torch.cuda.graph(graph):
            step()

        def replay() -> None:
            with torch.cuda.device(self.device):
                graph.replay()

        return replay


class CapturedBatch:
    """A batch in memory that its captured steps read and write."""

    def __init__(self, key: Hashable, batch: DecodingBatch, recorder: Recorder) -> None:
        self.key, self.batch, self.recorder = key, batch, recorder
        self.warm: set[Hashable] = set()
        self.steps: dict[Hashable, Step] = {}

    def run(self, kind: Hashable, step: Step) -> None:
        """Run a step: the first of its kind eagerly, the second recorded, all later ones replayed."""
        if kind not in self.warm:
            self.warm.add(kind)
            self.recorder.warm_up(step)
            return
        if kind not in self.steps:
            self.steps[kind] = self._recorded(step)
        self.steps[kind]()

    def load(self, state: DecodingState, cross: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Copy another batch of the same shape into the memory of this one; `cross` as in `KVCache`."""
        for own, other in zip(self.batch.state.tensors(), state.tensors(), strict=True):
            own.copy_(other)
        self.batch.cache.clear()
        for pair, other_pair in zip(self.batch.cache.cross, cross, strict=True):
            for own, other in zip(pair, other_pair, strict=True):
                own.copy_(other)

    def _recorded(self, step: Step) -> Step:
        """Record a step; where that fails, return the step itself."""
        try:
            return self.recorder.record(step)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            warnings.warn(
                f"sampling runs without CUDA graphs: a step was not captured ({reason})", stacklevel=2
            )
            return step
