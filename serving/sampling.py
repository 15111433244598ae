"""One batch of codes of several requests, and the images of the requests whose codes are there.

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


def decode_jobs(pipeline: Sampling, batch_size: int, jobs: Sequence[Job]) -> list[list[Image.Image]]:
    """Return the images of jobs with the same grid whose codes are there, decoded in batches.

    Image by image, decoding would take twice as long. In return, a pixel in some 50,000 differs by one of 255 from the
    image that `Pipeline.sample` decodes in a batch of another size, because sums are rounded in another order.
    """
    codes = torch.stack([job.parts[index] for job in jobs for index in range(job.request.n)])
    images = iter([image for part in codes.split(batch_size) for image in pipeline.decode(part)])
    return [[job.canvas.finish(next(images)) for _ in range(job.request.n)] for job in jobs]
