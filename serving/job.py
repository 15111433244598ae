"""A request as the worker sees it: n images of one seed and settings, and what their batch must have in common.

Shapes: h, w grid.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from PIL import Image

from ..pipelines.canvas import Canvas
from ..pipelines.request import Request
from ..prior.config import SamplingConfig


@dataclass(eq=False)
class Job:
    """n images. Images of several jobs share a batch where their `key` is equal."""

    request: Request
    """Number, seed and conditions."""
    settings: SamplingConfig
    canvas_of: Callable[[], Canvas]
    """Makes the canvas, in the worker: an edited image is encoded there."""
    positions: Hashable
    """The grid, and which of its codes are sampled."""
    future: Future[list[Image.Image]] = field(default_factory=Future)
    arrived: float = field(default_factory=time.monotonic)
    parts: dict[int, Any] = field(default_factory=dict)
    """What was sampled of each image."""

    @property
    def key(self) -> Hashable:
        """Images with this in common can be sampled together; seeds, labels, captions and known codes may differ."""
        kinds = tuple(sorted(kind for kind, values in self.request.values.items() if values))
        return self.settings, self.positions, kinds

    @cached_property
    def canvas(self) -> Canvas:
        """The canvas that all images of the job fill."""
        return self.canvas_of()

    def values(self, index: int) -> dict[str, Any]:
        """The condition of one image, one value by kind."""
        row = self.request.values_of(range(index, index + 1))
        return {kind: value[0] for kind, value in row.items()}

    @property
    def complete(self) -> bool:
        """Whether all images are sampled, and somebody waits for them."""
        return len(self.parts) == self.request.n and not self.future.done()

    def settle(self, result: list[Image.Image] | Exception) -> None:
        """Finish the job with its images or an error."""
        try:
            if isinstance(result, Exception):
                self.future.set_exception(result)
            else:
                self.future.set_result(result)
        except InvalidStateError:  # the client has gone in this moment, or another image has failed
            return


@dataclass(frozen=True)
class Row:
    """One image of a job."""

    job: Job
    index: int
