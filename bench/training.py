"""Speed of a training step of each stage on a batch in memory, and of the data loaders."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.config import AugmentationConfig, DataConfig, worker_count
from ..data.images import ImageDataset
from ..data.source import open_source
from ..prior.model import Prior
from ..prior.recipe import PriorRecipe
from ..prior.train import PriorStage
from ..runtime.precision import DTYPES, as_precision
from ..tokenizer.config import TokenizerConfig
from ..tokenizer.model import Tokenizer
from ..tokenizer.recipe import TokenizerRecipe
from ..tokenizer.train import TokenizerStage
from ..training.accelerator import make_accelerator
from ..training.config import TrainingConfig
from ..training.stage import Batch, Stage
from .config import BenchConfig
from .cost import coding_flops, training_flops
from .machine import Limits
from .random_data import noise_images, random_codes
from .report import Row, mebibytes
from .timing import Measurement, PeakMemory, Timing, measure_in_turn

BATCH_SIZE = 8
LOADER_BATCHES = 20
"""Batches per measurement of a loader."""


class TrainingSetup:
    """Both stages, ready for training steps: the tokenizer on images, the prior on random codes.

    Without data, images are noise, written to `folder` as PNG files.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prior: Prior,
        config: BenchConfig,
        folder: Path,
        data: DataConfig | None = None,
    ) -> None:
        self.has_real_images = data is not None
        self.data = data or noise_images(folder / "images", tokenizer.config, BATCH_SIZE)
        self.workers = worker_count(self.data)
        self.training = TrainingConfig(
            batch_size=BATCH_SIZE,
            precision=config.training_precision,
            device="cpu" if prior.device.type == "cpu" else "auto",
        )
        images = _open_images(tokenizer.config, self.data)
        codes = random_codes(folder / "codes", prior.config, 64 * BATCH_SIZE)
        self.stages: dict[str, Stage] = {
            "prior": PriorStage(prior, PriorRecipe(), self.training, codes, None, lambda codes: []),
            "tokenizer": TokenizerStage(
                tokenizer, TokenizerRecipe(), self.training, images, images, self.workers
            ),
        }

    def prepare(self) -> torch.dtype:
        """Prepare both stages with Accelerate; return the type of their matrix products."""
        accelerator = make_accelerator(self.training)
        for stage in self.stages.values():
            stage.prepare(accelerator, self.training)
            for optimized in stage.optimized_networks():
                optimized.network.train()
        return DTYPES["fp32" if accelerator.mixed_precision == "no" else accelerator.mixed_precision]

    def batches(self, name: str) -> Iterator[Batch]:
        """Yield batches of a stage without end, as its training reads them."""
        return self.stages[name].train_batches(0)


def bench_training(setup: TrainingSetup, limits: Limits, config: BenchConfig) -> list[Row]:
    """Return a row per stage: its speed, and its operations as a fraction of the machine's (MFU)."""
    dtype = setup.prepare()
    measurements = [
        Measurement(f"{name} step", partial(stage.step, next(setup.batches(name))))
        for name, stage in setup.stages.items()
    ]
    device = next(iter(setup.stages.values())).model.device
    timings = measure_in_turn(measurements, config.rounds, device)
    return [
        _row(name, stage, timing, dtype, limits)
        for (name, stage), timing in zip(setup.stages.items(), timings, strict=True)
    ]


def _row(name: str, stage: Stage, timing: Timing, dtype: torch.dtype, limits: Limits) -> Row:
    h, w = stage.model.config.grid
    return {
        "stage": name,
        "precision": as_precision(dtype),
        "batch size": BATCH_SIZE,
        "images/s": BATCH_SIZE / timing.median,
        "tokens/s": BATCH_SIZE * h * w / timing.median,
        "MFU": step_flops(stage, BATCH_SIZE) / limits.flops[dtype] / timing.median,
        "peak MiB": mebibytes(timing.peak),
    }


def bench_loader(setup: TrainingSetup, steps: list[Row], config: BenchConfig) -> list[Row]:
    """Return a row per loader, compared with the training step of its stage. Noise images are not measured.

    Args:
        steps: the rows of `bench_training`.
    """
    inputs = {"prior": "codes"}
    if setup.has_real_images:
        inputs["tokenizer"] = f"images of {setup.data.data}"
    rows = []
    for name, read in inputs.items():
        workers = setup.workers if name == "tokenizer" else 0
        with PeakMemory(torch.device("cpu")) as memory:
            speed = loading_speed(setup.batches(name), workers, config.rounds)
        step: Mapping[str, Any] = next(row for row in steps if row["stage"] == name)
        rows.append(
            {
                "stage": name,
                "input": read,
                "worker processes": workers,
                "images/s": speed,
                "training images/s": step["images/s"],
                "loading / training speed": speed / step["images/s"],
                "peak MiB": mebibytes(memory.peak),
            }
        )
    return rows


def loading_speed(batches: Iterator[Batch], workers: int, rounds: int) -> float:
    """Return the median images/s of a loader, after the batches that it had prepared."""
    prepared, count = 1 + 2 * workers, max(LOADER_BATCHES, 4 * workers)
    for _ in islice(batches, prepared):
        pass
    speeds = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in islice(batches, count):
            pass
        speeds.append(count * BATCH_SIZE / (time.perf_counter() - start))
    batches.close()  # type: ignore[attr-defined]  # ends the workers
    return float(np.median(speeds))


def step_flops(stage: Stage, images: int) -> float:
    """Return the operations of a training step: the forward pass, and twice as many in the backward pass."""
    model = stage.model
    if isinstance(model, Prior):
        return training_flops(model.config, images)
    return 3 * images * sum(coding_flops(model.config))


def _open_images(config: TokenizerConfig, data: DataConfig) -> ImageDataset:
    """Open images as the tokenizer's training reads them."""
    return ImageDataset(open_source(data)[0], config.size, config.channels, data, AugmentationConfig())
