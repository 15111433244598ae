"""Held-out metrics of a prior: bits per token and per pixel, in total and per class.

Shapes: B batch.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.codes import CodesDataset
from ..data.config import ConditionDataConfig, DataConfig
from ..data.loader import eval_batches
from ..data.source import open_source
from ..errors import DataError
from ..prior.model import Prior
from ..prior.objectives import log_likelihood
from ..prior.train import condition_of
from ..runtime.progress import Bar
from ..runtime.repository import results_folder
from .encode import CacheSettings, cached_codes
from .files import RUN_FILE
from .pipeline import Pipeline
from .prior_data import CODES_FOLDER
from .settings import read_toml

logger = logging.getLogger("imgtf")

BATCH_SIZE = 64


def evaluate_prior(
    folder: Path,
    pipeline: Pipeline,
    data: DataConfig,
    conditions: ConditionDataConfig,
    *,
    orders: int = 1,
) -> dict[str, Any]:
    """Bits per token and per pixel on the held-out images of a data set. Its codes are cached in `folder/codes`.

    Exact for raster priors. For the others an average over `orders` random orders per image; priors of objective
    random also report the exact value of raster order. Images without a label count in the total only.

    Raises:
        DataError: for data without held-out images.
    """
    held_out = open_source(data)[1]
    if not len(held_out):
        raise DataError(
            f"{data.data}: no held-out images to evaluate on; see --held-out and --held-out-split"
        )
    for loader in pipeline.loaders:
        loader.open(data, conditions)
    settings = CacheSettings.held_out(data, run_precision(folder))
    codes = cached_codes(
        results_folder(folder) / CODES_FOLDER, pipeline.tokenizer, held_out, settings, pipeline.loaders
    )
    prior, pixels = pipeline.prior, math.prod(pipeline.tokenizer.config.size)
    bits, labels = image_bits(prior, codes, orders)
    metrics = {"images": len(bits), "bits_per_token": float(bits.mean())}
    if prior.config.objective == "random":
        metrics["bits_per_token_raster"] = float(image_bits(prior, codes, 1, raster=True)[0].mean())
    metrics["bits_per_pixel"] = metrics["bits_per_token"] * prior.config.tokens / pixels
    by_class = {
        name: float(bits[labels == i].mean())
        for i, name in enumerate(prior.config.class_names)
        if (labels == i).any()
    }
    return metrics | ({"by_class": by_class} if by_class else {})


def run_precision(folder: Path) -> str:
    """The precision in which the prior's run encoded its images; auto for imported priors."""
    path = folder / "prior" / RUN_FILE
    return str(read_toml(path).get("precision", "auto")) if path.exists() else "auto"


@torch.no_grad()
def image_bits(
    prior: Prior, codes: CodesDataset, orders: int, *, raster: bool = False
) -> tuple[Tensor, Tensor]:
    """Mean bits per token of each image (n,) float64, and its class (n,), -1 without a class that the prior knows."""
    repeats = 1 if raster or prior.config.objective == "raster" else orders
    generator = torch.Generator().manual_seed(0)
    bits, labels = [], []
    classes = _classes(codes.info.class_names, prior.config.class_names)
    with Bar("evaluate", len(codes), "image") as bar:
        for batch in eval_batches(codes, BATCH_SIZE):
            batch["label"] = classes[batch["label"]]
            grids, condition = batch["codes"].to(prior.device), condition_of(batch, prior.config)
            draws = [
                log_likelihood(prior, grids, condition, generator, raster=raster) for _ in range(repeats)
            ]
            bits.append(-torch.stack(draws).mean(0).cpu().double() / math.log(2))  # (B,)
            labels.append(batch["label"])
            bar.update(len(grids))
    return torch.cat(bits), torch.cat(labels)


def _classes(names: tuple[str, ...], known: tuple[str, ...]) -> Tensor:
    """The prior's class number of each class of a data set, and of "no label" (the last entry); -1 for none."""
    unknown = [name for name in names if known and name not in known]
    if unknown:
        logger.warning("classes that the prior does not know count as unlabelled: %s", ", ".join(unknown))
    return torch.tensor([known.index(name) if name in known else -1 for name in names] + [-1])
