"""What a model folder holds, and the memory that sampling from it takes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..prior.config import PriorConfig
from ..prior.decoding.schedules import step_count
from ..prior.model import Prior
from ..runtime.device import pick_device
from ..runtime.precision import DTYPES
from ..tokenizer.config import TokenizerConfig
from ..tokenizer.model import Tokenizer
from .conditions import describe_conditions
from .files import REPORT_FILE
from .memory import SamplingMemory, auto_batch, free_memory, sampling_memory
from .request import sampling_precision, sampling_settings
from .tensor_bytes import cache_bytes, parameter_count
from .write import GRID_MOST

BATCH_SIZES = (1, 16, 64)
"""Batch sizes whose memory `imgtf info` states."""


def describe_model(folder: Path) -> dict[str, Any]:
    """Return sizes, conditions and parameters of each stage; with both stages also the memory of sampling on a CPU.

    `report` is the page about the runs, where there is one.

    Raises:
        CheckpointError: the folder holds neither stage, or one cannot be read.
    """
    found: dict[str, Any] = {}
    if (folder / "tokenizer" / "config.json").exists():
        tokenizer = Tokenizer.from_pretrained(folder / "tokenizer", "cpu")
        found["tokenizer"] = _describe_tokenizer(tokenizer)
    if (folder / "prior" / "config.json").exists():
        prior = Prior.from_pretrained(folder / "prior", "cpu")
        found["prior"] = _describe_prior(prior)
    if not found:
        raise CheckpointError(f"{folder}: holds neither tokenizer/ nor prior/; is this a model folder?")
    if len(found) == 2:
        found["sampling_memory_mib"] = _memory_by_batch_size(prior.config, tokenizer.config)
    if (folder / REPORT_FILE).exists():
        found["report"] = str(folder / REPORT_FILE)
    return found


def describe_sampling(
    folder: Path, n: int, batch_size: int | None, device: str, precision: str = "auto", **settings: Any
) -> dict[str, Any]:
    """Return the steps and the memory that `imgtf sample` would take, from the configurations without the weights.

    Raises:
        CheckpointError: a configuration is missing or damaged.
        ConfigError: a setting is out of range, or a precision or device is not available.
    """
    place = pick_device(device)
    tokenizer: TokenizerConfig = Tokenizer.read_config(folder / "tokenizer")
    prior: PriorConfig = Prior.read_config(folder / "prior")
    precision = sampling_precision(precision, prior, place)
    dtype, sampling = DTYPES[precision], sampling_settings(prior, **settings)
    guided = sampling.cfg_scale != 1 and bool(prior.conditions)
    free = free_memory(place)
    options: dict[str, Any] = {"device": place.type, "dtype": dtype}
    if batch_size is None:
        free_after_loading = free - sampling_memory(prior, tokenizer, 1, **options).weights
        batch_size = auto_batch(prior, tokenizer, n, free_after_loading, settings=sampling, **options)
    memory = sampling_memory(
        prior, tokenizer, batch_size, grid_images=min(n, GRID_MOST), settings=sampling, **options
    )
    return {
        "images": n,
        "precision": precision,
        "batch_size": batch_size,
        "rows_per_batch": batch_size * (2 if guided else 1),
        "steps": -(-n // batch_size) * step_count(prior, sampling),
        "parameters": {
            "tokenizer": parameter_count(tokenizer),
            "prior": parameter_count(prior),
        },
        "memory_mib": _in_mebibytes(memory) | {"free": mebibytes(free)},
    }


def _describe_tokenizer(tokenizer: Tokenizer) -> dict[str, Any]:
    config = tokenizer.config
    (height, width), (h, w) = config.size, config.grid
    return {
        "image": f"{height}x{width}x{config.channels}",
        "grid": f"{h}x{w}",
        "codebook_size": config.codebook_size,
        "parameters": tokenizer.parameter_count(),
        "sha256": tokenizer.weights_sha256(),
        "codes_sha256": tokenizer.codes_sha256(),
    }


def _describe_prior(prior: Prior) -> dict[str, Any]:
    config = prior.config
    return {
        "objective": config.objective,
        "conditions": describe_conditions(config),
        "classes": ", ".join(config.class_names) or "none",
        "network": f"{config.depth} layers, {config.heads} heads, width {config.width}",
        "tokens_per_image": config.tokens,
        "parameters": prior.parameter_count(),
        "tokenizer_sha256": config.tokenizer_sha256,
    }


def _memory_by_batch_size(prior: PriorConfig, tokenizer: TokenizerConfig) -> dict[str, float]:
    """The cache per image (two rows with guidance) and the peak by batch size, with the prior's own settings."""
    rows = 2 if prior.sampling.cfg_scale != 1 and prior.conditions else 1
    peaks = {
        f"batch_{size}": mebibytes(sampling_memory(prior, tokenizer, size, grid_images=size).peak)
        for size in BATCH_SIZES
    }
    return {"cache_per_image": mebibytes(cache_bytes(prior, rows))} | peaks


def _in_mebibytes(memory: SamplingMemory) -> dict[str, float]:
    sizes = {name: mebibytes(count) for name, count in asdict(memory).items() if name != "captured"}
    return sizes | {"peak": mebibytes(memory.peak)}


def mebibytes(count: int) -> float:
    """Return bytes in MiB, rounded to about a kilobyte."""
    return round(count / 2**20, 3)
