"""A training step of either stage, as the trainer takes it, on a batch that is already there; and the loaders."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..data.codes import CacheColumn, CodesDataset, CodesInfo, open_codes, write_codes
from ..data.config import AugmentationConfig, DataConfig, worker_count
from ..data.images import ImageDataset
from ..data.source import open_source
from ..prior.config import PriorConfig, PriorRecipe
from ..prior.model import Prior
from ..prior.train import PriorStage
from ..tokenizer.config import TokenizerConfig
from ..tokenizer.model import Tokenizer
from ..tokenizer.recipe import TokenizerRecipe
from ..tokenizer.train import TokenizerStage
from ..training.accelerator import make_accelerator
from ..training.config import TrainingConfig
from ..training.stage import Batch, Stage
from .config import BenchConfig
from .cost import coding_flops, training_flops
from .machine import Limits, type_name
from .report import Row, mebibytes
from .timing import Measurement, PeakMemory, take_turns

TYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class TrainingSetup:
    """Both stages ready to take steps: the tokenizer on images, the prior on random codes.

    Without a data source the images are noise, written to `folder` as PNGs of the right size.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prior: Prior,
        config: BenchConfig,
        folder: Path,
        data: DataConfig | None = None,
    ) -> None:
        self.batch = config.training_batch
        self.data = data or noise(folder / "images", tokenizer.config, self.batch)
        self.images = image_set(tokenizer.config, self.data)
        self.codes = random_codes(folder / "codes", prior.config, 64 * self.batch)
        self.training = TrainingConfig(
            batch_size=self.batch,
            precision=config.precision,
            device="cpu" if prior.device.type == "cpu" else "auto",
        )
        self.stages: dict[str, Stage] = {
            "prior": PriorStage(prior, PriorRecipe(), self.training, self.codes, None, lambda codes: []),
            "tokenizer": TokenizerStage(
                tokenizer, TokenizerRecipe(), self.training, self.images, self.images, self.workers
            ),
        }

    @property
    def workers(self) -> int:
        """Processes that read images."""
        return worker_count(self.data)

    def start(self) -> torch.dtype:
        """Hands both to Accelerate, and says in which arithmetic they train."""
        accelerator = make_accelerator(self.training)
        for stage in self.stages.values():
            stage.prepare(accelerator, self.training)
            for optimized in stage.optimized_networks():
                optimized.network.train()
        return TYPES[accelerator.mixed_precision]

    def batches(self, name: str) -> Iterator[Batch]:
        """Endless batches of a stage as its training reads them."""
        return self.stages[name].train_batches(0)


def bench_training(shop: TrainingSetup, limits: Limits, config: BenchConfig) -> list[Row]:
    """A row a stage: speed, and the share of the machine's operations that the network's own make (MFU)."""
    dtype = shop.start()
    batches = {name: next(shop.batches(name)) for name in shop.stages}
    acts = [
        Measurement(f"{name} step", lambda s=stage, b=batches[name]: s.step(b))  # type: ignore[misc]
        for name, stage in shop.stages.items()
    ]
    timings = take_turns(acts, config.rounds, next(iter(shop.stages.values())).model.device)
    rows = []
    for (name, stage), timing in zip(shop.stages.items(), timings, strict=True):
        flops, tokens = step_flops(stage, shop.batch), tokens_of(stage) * shop.batch
        rows.append(
            {
                "stage": name,
                "arithmetic": type_name(dtype),
                "batch": shop.batch,
                "images/s": shop.batch / timing.median,
                "tokens/s": tokens / timing.median,
                "MFU": flops / limits.flops[dtype] / timing.median,
                "peak MiB": mebibytes(timing.peak),
            }
        )
    return rows


def bench_loader(shop: TrainingSetup, steps: list[Row], config: BenchConfig, real: bool) -> list[Row]:
    """Images a second that the loaders give, beside what the step of the same stage takes.

    Args:
        real: the images are the user's; noise says nothing about reading.
    """
    rows = []
    for name, workers in [("prior", 0)] + ([("tokenizer", shop.workers)] if real else []):
        with PeakMemory(torch.device("cpu")) as memory:
            speed = loading_speed(shop.batches(name), shop.batch, workers, config)
        step: Mapping[str, Any] = next((row for row in steps if row["stage"] == name), {})
        rows.append(
            {
                "reads": f"images of {shop.data.data}" if name == "tokenizer" else "codes",
                "processes": workers,
                "images/s": speed,
                "for the stage": name,
                "its step's images/s": step.get("images/s"),
                "over the step": speed / step["images/s"] if step else None,
                "peak MiB": mebibytes(memory.peak),
            }
        )
    return rows


def loading_speed(batches: Iterator[Batch], size: int, workers: int, config: BenchConfig) -> float:
    """Images a second in the median round, once the batches that lie ready are taken."""
    ahead, count = 1 + 2 * workers, max(config.loader_batches, 4 * workers)
    for _ in islice(batches, ahead):
        pass
    speeds = []
    for _ in range(config.rounds):
        start = time.perf_counter()
        for _ in islice(batches, count):
            pass
        speeds.append(count * size / (time.perf_counter() - start))
    batches.close()  # type: ignore[attr-defined]  # ends the workers
    return float(np.median(speeds))


def step_flops(stage: Stage, images: int) -> float:
    """Operations of a training step: forward, and twice as much backward."""
    model = stage.model
    if isinstance(model, Prior):
        return training_flops(model.config, images)
    return 3 * images * sum(coding_flops(model.config))


def tokens_of(stage: Stage) -> int:
    """Codes an image."""
    h, w = stage.model.config.grid
    return h * w


def image_set(config: TokenizerConfig, data: DataConfig) -> ImageDataset:
    """A source as the tokenizer's training reads it."""
    return ImageDataset(open_source(data)[0], config.image_size, config.channels, data, AugmentationConfig())


def noise(folder: Path, config: TokenizerConfig, count: int) -> DataConfig:
    """Writes images of noise and returns the settings that open them."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for i in range(count):
        pixels = generator.integers(0, 256, (config.image_size, config.image_size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return DataConfig(data=str(folder), held_out=0.0)


def random_codes(folder: Path, config: PriorConfig, count: int) -> CodesDataset:
    """A token cache of random codes, with random values of every condition of the prior."""
    generator = np.random.default_rng(0)
    info = CodesInfo(
        tokenizer_sha256="", source="random", split="train", fingerprint="random", grid=config.grid,
        codebook_size=config.codebook_size, class_names=config.class_names, flips=False, image_size=0,
        preprocessing="", columns=tuple(c for cond in config.conditions for c in cond.columns("random")),
    )  # fmt: skip
    rows = (
        {column.name: random_array(generator, column) for column in info.arrays}
        | {
            "label": i % config.classes if config.classes else None,
            "text": "x" * config.condition_length("text"),
        }
        for i in range(count)
    )
    write_codes(folder, info, rows)
    return open_codes(folder)


def random_array(generator: np.random.Generator, column: CacheColumn) -> np.ndarray:
    """Random values of one column of a token cache."""
    if column.codebook_size:
        return generator.integers(column.codebook_size, size=column.shape)
    return generator.standard_normal(column.shape)
