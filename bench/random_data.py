"""Random inputs of the right shapes: conditions, token caches, images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import default_collate

from ..data.codes import CacheColumn, CodesDataset, CodesInfo, open_codes, write_codes
from ..data.config import DataConfig
from ..prior.conditions.condition import Condition
from ..prior.config import PriorConfig
from ..prior.train import condition_of
from ..tokenizer.config import TokenizerConfig


def random_condition(config: PriorConfig, images: int) -> Condition:
    """Return random values of every condition of a prior."""
    generator, columns = np.random.default_rng(0), _cache_info(config).columns
    rows = [random_row(generator, config, columns, index) for index in range(images)]
    return condition_of(default_collate(rows), config)


def random_codes(folder: Path, config: PriorConfig, count: int) -> CodesDataset:
    """Write a token cache of random codes and conditions, and open it."""
    generator, info = np.random.default_rng(0), _cache_info(config)
    write_codes(folder, info, (random_row(generator, config, info.arrays, i) for i in range(count)))
    return open_codes(folder)


def random_row(
    generator: np.random.Generator, config: PriorConfig, columns: tuple[CacheColumn, ...], index: int
) -> dict[str, Any]:
    """Return one row of a token cache. Labels take the classes in turn."""
    arrays = {column.name: _random_array(generator, column) for column in columns}
    label = index % config.classes if config.classes else -1
    return arrays | {"label": label, "text": "x" * config.condition_length("text")}


def noise_images(folder: Path, config: TokenizerConfig, count: int) -> DataConfig:
    """Write PNG files of noise at the tokenizer's image size; return the settings that open them."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for i in range(count):
        pixels = generator.integers(0, 256, (*config.size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return DataConfig(data=str(folder), held_out=0.0)


def _cache_info(config: PriorConfig) -> CodesInfo:
    return CodesInfo(
        tokenizer_sha256="", source="random", split="train", fingerprint="random", grid=config.grid,
        codebook_size=config.codebook_size, class_names=config.class_names, flips=False, image_size=0,
        preprocessing="", columns=tuple(c for own in config.conditions for c in own.columns("random")),
    )  # fmt: skip


def _random_array(generator: np.random.Generator, column: CacheColumn) -> np.ndarray:
    if column.codebook_size:
        return generator.integers(column.codebook_size, size=column.shape)
    return generator.standard_normal(column.shape, dtype=np.float32)
