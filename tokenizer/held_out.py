"""Held-out metrics and the preview of a tokenizer in training."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from PIL import Image
from torch import Tensor

from ..data.grid import draw_grid
from ..data.image import to_pil
from ..runtime.batch_random import sum_over_processes
from ..training.stage import mean_over
from .losses import reconstruction_losses, weighted_sum
from .metrics import CodeCounts, psnr
from .model import Tokenizer
from .perceptual import Perceptual


@torch.no_grad()
def evaluate(
    model: Tokenizer,
    batches: Iterable[Tensor],
    weights: dict[str, float],
    perceptual: Perceptual | None = None,
) -> dict[str, float]:
    """Return mean losses, PSNR (dB), and usage and perplexity of the codes over batches of images in [-1, 1].

    The means are over the batches of all processes, each of which gives its own. The model must be in evaluation mode.
    Without batches the result is empty.
    """
    counts = CodeCounts(model.config.codebook_size)

    def metrics(images: Tensor) -> dict[str, Tensor]:
        result = model(images)
        counts.add(result.codes)
        losses = reconstruction_losses(images, result.images, weights, perceptual)
        return {
            "loss": weighted_sum(losses, weights),
            **losses,
            "psnr": psnr(images, result.images).mean(),
        }

    means = mean_over((len(images), metrics(images)) for images in batches)
    counts.counts = sum_over_processes(counts.counts.to(model.device)).cpu()
    return means | counts.metrics()


def draw_pairs(images: Tensor, reconstructions: Tensor, columns: int = 8) -> Image.Image:
    """Return a grid in which each row of images is followed by the row of their reconstructions."""
    cells = []
    for start in range(0, len(images), columns):
        part = slice(start, start + columns)
        cells += [to_pil(i) for i in images[part]] + [to_pil(r.clamp(-1, 1)) for r in reconstructions[part]]
    return draw_grid(cells, columns=min(columns, len(images)))
