"""How good samples are: distances to real images, precision and recall, memorisation.

Samples are judged while they are sampled: neither files nor images are kept.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..data.config import ConditionDataConfig, DataConfig
from ..data.grid import draw_grid
from ..data.image import to_pil
from ..errors import DataError
from ..evaluation.features import check_features
from ..evaluation.nearest import Memorisation
from ..evaluation.references import Progress
from ..tokenizer.model import Tokenizer
from .evaluation_report import Evaluation
from .judge import Judge, JudgeOptions
from .processes import Processes
from .real_conditions import RealConditions, open_conditioning
from .sample_sets import FolderSamples, GeneratedSamples, SampleSet
from .sampling import Sampling

logger = logging.getLogger("imgtf")


def evaluate(
    sampling: Sampling,
    data: DataConfig | str | Path,
    n: int = 1000,
    *,
    columns: ConditionDataConfig | None = None,
    options: JudgeOptions | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    settings: Mapping[str, Any] | None = None,
    memorisation: bool = True,
    processes: Processes | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Judge n samples of a model.

    The conditions of the samples are those of the reference: its labels in their proportions, its captions, its
    conditioning images.

    Args:
        data: the data set to compare with.
        columns: which conditioning images a prior that reads them gets.
        settings: fields of `SamplingConfig` by name.
        memorisation: compare the samples with all training images, too.
        progress: called with the kind of work, the images since the last call, and their total.

    Raises:
        ConfigError, DataError, CheckpointError: as `Judge`; and for data without the conditions of the prior.
    """
    judge = judge_of(sampling, data, columns, options, processes, progress)
    conditions = RealConditions(sampling, judge.reference.source)
    samples = GeneratedSamples(sampling, conditions, n, seed=seed, batch_size=batch_size, settings=settings)
    return _evaluation(judge, samples, memorisation)


def judge_of(
    sampling: Sampling,
    data: DataConfig | str | Path,
    columns: ConditionDataConfig | None = None,
    options: JudgeOptions | None = None,
    processes: Processes | None = None,
    progress: Progress | None = None,
) -> Judge:
    """The judge of a model's samples. Raises as `evaluate`."""
    config = data if isinstance(data, DataConfig) else DataConfig(data=str(data))
    check_features((options or JudgeOptions()).features)
    open_conditioning(sampling, config, columns or ConditionDataConfig())
    own = sampling.tokenizer.config
    return Judge(config, own.size, own.channels, sampling.prior.device, options, processes, progress)


def evaluate_folder(
    folder: Path,
    data: DataConfig,
    *,
    model: Path | None = None,
    device: torch.device | str = "cpu",
    options: JudgeOptions | None = None,
    memorisation: bool = True,
    processes: Processes | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Judge the images of a folder, at the size of a model, or of the first image where there is no model.

    Raises:
        ConfigError, DataError, CheckpointError: as `Judge`; and for a folder without images.
    """
    check_features((options or JudgeOptions()).features)
    size = channels = None
    if model is not None and (model / "tokenizer" / "config.json").exists():
        config = Tokenizer.read_config(model / "tokenizer")
        size, channels = config.size, config.channels
    samples = FolderSamples(folder, size, channels, data)
    if len(samples) < 2:
        raise DataError(f"{folder}: {len(samples)} images; samples to judge are two or more")
    if size is None:
        logger.info("all images are compared at %dx%d, the size of the first sample", *samples.size)
    judge = Judge(data, samples.size, samples.channels, torch.device(device), options, processes, progress)
    return _evaluation(judge, samples, memorisation)


def _evaluation(judge: Judge, samples: SampleSet, memorisation: bool) -> Evaluation:
    queries = judge.new_queries() if memorisation else None
    _ = judge.real_statistics  # first, so that a fault of the data is found before sampling
    statistics = judge.measure(samples, queries)
    report: dict[str, Any] = {
        "samples": samples.describe(),
        "reference": judge.reference.describe(),
        "features": judge.figures(statistics),
    }
    found = judge.memorisation(queries) if queries is not None else None
    if found is None:
        return Evaluation(report)
    report["memorisation"] = _describe(judge, found)
    return Evaluation(report, _worst_pairs(judge, samples, found))


def _describe(judge: Judge, found: Memorisation) -> dict[str, Any]:
    pairs = [
        {
            "sample": pair.sample, "training_image": judge.train.where(pair.training), "nearest_in": pair.space,
            "distance": pair.distance, "relative": pair.relative,
        }
        for pair in found.pairs
    ]  # fmt: skip
    return {
        "training_images": len(judge.train), "held_out_images": len(judge.held_out),
        "features_of": judge.memorisation_network.name, **found.spaces,
        "flagged": len(found.near), "compared": found.compared, "pairs": pairs,
    }  # fmt: skip


def _worst_pairs(judge: Judge, samples: SampleSet, found: Memorisation) -> Image.Image | None:
    """Samples next to their nearest training images, the nearest first. Drawn by the first process."""
    if not judge.processes.is_first:
        return None
    images, captions = [], []
    training = judge.real(judge.train).dataset
    for pair in found.pairs:
        images += [samples.image(pair.sample), to_pil(training[pair.training]["image"])]
        captions += [f"sample {pair.sample}", f"x{pair.relative:.2f}"]
    return draw_grid(images, columns=4, captions=captions)
