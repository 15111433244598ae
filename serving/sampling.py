"""One batch of codes of several requests, and the images of one request.

Shapes: B images, h, w grid, T = h*w tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from ..pipelines.condition_loader import to_condition
from ..pipelines.request import Progress
from ..pipelines.sampling import Sampling
from ..pipelines.windows import sample_windows
from ..prior.decoding.sampler import image_uniforms
from .job import Job, Row


def sample_rows(pipeline: Sampling, rows: Sequence[Row], progress: Progress) -> Sequence[Tensor]:
    """Return the codes (h, w) of rows whose jobs have the same key; those that `Sampling.stream` gives.

    Args:
        progress: called after every step; an exception that it raises ends the batch.

    Raises:
        ImgtfError: an image or a condition that does not work after all.
    """
    codes = torch.stack([row.job.canvas.codes for row in rows])  # (B, h, w)
    tokens = codes[0].numel()
    uniforms = torch.cat([image_uniforms(row.job.request.seed, row.index, 1, tokens) for row in rows])
    given = [row.job.values(row.index) for row in rows]
    condition = to_condition(pipeline.loaders, {kind: [own[kind] for own in given] for kind in given[0]})
    return sample_windows(
        pipeline.decoder, lambda _: condition, uniforms, rows[0].job.settings, codes, progress,
        codes_per_latent=pipeline.tokenizer.config.codes_per_latent,
    ).unbind()  # fmt: skip


def decode_job(pipeline: Sampling, job: Job) -> list[Image.Image]:
    """Return the images of a job whose codes are there.

    They are decoded together and without others, as `Pipeline.sample` does: convolutions of another number of images
    round differently, which changes a pixel in a hundred thousand by one of 255.
    """
    codes = torch.stack([job.parts[index] for index in range(job.request.n)])
    return [job.canvas.finish(image) for image in pipeline.decode(codes)]
