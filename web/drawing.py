"""Sampling for a page: what is there so far is shown while the codes are drawn.

Shapes: B images, H, W image, h, w grid, q codes per latent, f downsampling factor.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..pipelines.canvas import Canvas
from ..pipelines.pipeline import Pipeline
from ..pipelines.request import Sample
from .asked import Asked
from .worker import Job

PAUSE = 0.3
"""Seconds between two previews, at least."""
SHARE = 5
"""Previews take at most one part in this many of the time."""


@dataclass(frozen=True)
class Drawing:
    """Images of which the last ones may be unfinished."""

    images: Sequence[Image.Image]
    captions: Sequence[str]
    done: int = 0
    """Codes that are drawn."""
    total: int = 0
    samples: Sequence[Sample] = ()
    """The finished samples, once all are."""

    @property
    def finished(self) -> bool:
        return bool(self.samples)


@dataclass
class Preview:
    """The previews of one request."""

    pipeline: Pipeline
    canvas: Canvas
    job: Job[Drawing]
    total: int
    done: int = 0
    samples: list[Sample] = field(default_factory=list)
    due: float = 0.0
    """When the next preview may be made."""

    def progress(self, codes: int) -> None:
        self.done += codes

    def watch(self, codes: Tensor) -> None:
        """Show the codes (B, h, w) so far, if it is time to. Raises Stopped when nobody waits any more."""
        self.job.check()
        started = time.monotonic()
        if started < self.due:
            return
        images = [sample.image for sample in self.samples] + unfinished(self.pipeline, codes, self.canvas)
        captions = [caption(sample) for sample in self.samples]
        self.job.show(Drawing(images, captions + [""] * (len(images) - len(captions)), self.done, self.total))
        now = time.monotonic()
        self.due = now + max(PAUSE, (SHARE - 1) * (now - started))


def draw(pipeline: Pipeline, asked: Asked, canvas: Canvas | None, job: Job[Drawing]) -> None:
    """Sample what was asked for, showing previews and at the end the finished samples.

    Args:
        canvas: of which n ways to fill it are sampled; None: an empty one.

    Raises:
        ConfigError: a condition that the prior does not have, or a setting that does not work.
    """
    empty = Canvas.empty(pipeline.prior.config.grid)
    own = canvas or empty
    preview = Preview(pipeline, own, job, asked.n * own.missing)
    stream = pipeline.stream(
        asked.n, canvas=canvas, progress=preview.progress, watch=preview.watch, **asked.arguments()
    )
    for sample in stream:
        preview.samples.append(sample)
    samples, total = preview.samples, preview.total
    images, captions = [one.image for one in samples], [caption(one) for one in samples]
    job.show(Drawing(images, captions, total, total, samples))


def caption(sample: Sample) -> str:
    """Return the class or the caption of a sample."""
    return sample.text or sample.label or ""


@torch.no_grad()
def unfinished(pipeline: Pipeline, codes: Tensor, canvas: Canvas) -> list[Image.Image]:
    """Return the images of codes (B, h, w), grey where a code is missing (-1)."""
    config = pipeline.tokenizer.config
    per_latent, f = config.codes_per_latent, config.factor
    missing = (codes < 0).unflatten(2, (-1, per_latent)).any(-1)  # (B, h, w / q)
    hidden = missing.repeat_interleave(f, 1).repeat_interleave(f, 2).cpu().numpy()  # (B, H, W)
    images = pipeline.decode(codes.clamp_min(0))
    return [_greyed(canvas.finish(image), own) for image, own in zip(images, hidden, strict=True)]


def _greyed(image: Image.Image, hidden: np.ndarray) -> Image.Image:
    """Return an image with grey in the place of hidden pixels (H, W)."""
    pixels = np.array(image)
    own = hidden[: pixels.shape[0], : pixels.shape[1]]  # a result may be cut
    pixels[own] = np.iinfo(pixels.dtype).max // 2 + 1
    return Image.fromarray(pixels)
