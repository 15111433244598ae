"""One batch of images of several requests.

Shapes: B images, h, w grid, T = h*w tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image

from ..pipelines.condition_loader import to_condition
from ..pipelines.request import Progress
from ..pipelines.sampling import Sampling
from ..pipelines.windows import sample_windows
from ..prior.decoding.sampler import image_uniforms
from .job import Row


def sample_rows(pipeline: Sampling, rows: Sequence[Row], progress: Progress) -> list[Image.Image]:
    """Return the images of rows whose jobs have the same key; each is the image that `Sampling.stream` gives.

    Args:
        progress: called after every step; an exception that it raises ends the batch.

    Raises:
        ImgtfError: an image or a condition that does not work after all.
    """
    canvases = [row.job.canvas for row in rows]
    codes = torch.stack([canvas.codes for canvas in canvases])  # (B, h, w)
    tokens = codes[0].numel()
    uniforms = torch.cat([image_uniforms(row.job.request.seed, row.index, 1, tokens) for row in rows])
    given = [row.job.values(row.index) for row in rows]
    condition = to_condition(pipeline.loaders, {kind: [own[kind] for own in given] for kind in given[0]})
    sampled = sample_windows(
        pipeline.decoder, lambda _: condition, uniforms, rows[0].job.settings, codes, progress,
        codes_per_latent=pipeline.tokenizer.config.codes_per_latent,
    )  # fmt: skip
    images = pipeline.decode(sampled)
    return [canvas.finish(image) for canvas, image in zip(canvases, images, strict=True)]
