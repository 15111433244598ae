"""The plots of a run that has ended."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ..data.images import ImageDataset
from ..data.loader import eval_batches
from ..prior.train import PriorStage
from ..tokenizer.metrics import CodeCounts
from ..tokenizer.model import Tokenizer
from ..tokenizer.train import TokenizerStage
from ..training.config import TrainingConfig
from ..training.report import LOG_FILE
from .plots import CURVES_FILE, USAGE_FILE, can_draw, draw_curves, draw_usage
from .report_parts import save_counts


def draw_plots(stage: TokenizerStage | PriorStage, folder: Path) -> None:
    """Draw the curves of a run in a model folder, and count a tokenizer's codes; without matplotlib only count."""
    training, plots = folder / "training" / stage.name, can_draw()
    if plots:
        draw_curves(training / LOG_FILE, training / CURVES_FILE)
    if isinstance(stage, TokenizerStage):
        shown = stage.held_out_set if len(stage.held_out_set) else stage.train_set
        counts = count_codes(folder / stage.weights_folder, shown, stage.config, stage.accelerator.device)
        save_counts(counts, training)
        if plots:
            draw_usage(counts, training / USAGE_FILE)


@torch.no_grad()
def count_codes(
    folder: Path, images: ImageDataset, config: TrainingConfig, device: torch.device
) -> np.ndarray:
    """How often the weights that were kept use each code, (V,), on as many images as an evaluation looks at."""
    tokenizer = Tokenizer.from_pretrained(folder, device)
    counts = CodeCounts(tokenizer.config.codebook_size)
    for batch in eval_batches(images, config.batch_size, limit=config.eval_images):
        counts.add(tokenizer.encode(batch["image"].to(device)))
    return counts.counts.numpy()
