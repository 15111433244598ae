"""Held-out metrics and the preview of a tokenizer in training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor

from ..data.grid import draw_grid
from ..data.image import to_pil
from ..data.images import BadImages, ImageDataset
from ..data.loader import eval_batches
from ..runtime.batch_random import sum_over_processes
from ..training.config import TrainingConfig
from ..training.stage import Batch, mean_over
from .losses import reconstruction_losses, weighted_sum
from .metrics import CodeCounts, psnr
from .model import Tokenizer
from .perceptual import Perceptual


class HeldOutImages:
    """The held-out images of a run, read anew for every evaluation.

    The next image counts twice where one cannot be read, so the log names that one, once.
    """

    def __init__(self, images: ImageDataset) -> None:
        self.images, self.bad_images = images, BadImages(len(images), images.config.bad_images)

    def batches(self, config: TrainingConfig, accelerator: Accelerator) -> Iterator[Batch]:
        """Yield the batches of this process. Raises DataError if too many images cannot be read."""
        batches = eval_batches(
            self.images,
            config.micro_batch_size,
            limit=config.eval_images,
            rank=accelerator.process_index,
            world=accelerator.num_processes,
        )
        for batch in batches:
            self.bad_images.note(batch["bad"])
            yield batch


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
