"""What a model folder holds, and what sampling from it takes, in figures."""

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
from .memory import SamplingMemory, auto_batch, cache_bytes, free_memory, parameter_count, sampling_memory
from .request import sampling_precision, sampling_settings
from .write import GRID_MOST

BATCHES = (1, 16, 64)
"""Batches that `imgtf info` states the memory of."""


def describe_model(folder: Path) -> dict[str, Any]:
    """Sizes, classes and parameters of the parts that are there; with both, the memory that sampling takes on a CPU.

    Raises:
        CheckpointError: when there is neither a tokenizer nor a prior, or one cannot be read.
    """
    parts: dict[str, Any] = {}
    if (folder / "tokenizer" / "config.json").exists():
        tokenizer = Tokenizer.from_pretrained(folder / "tokenizer", "cpu")
        config, (h, w) = tokenizer.config, tokenizer.config.grid
        parts["tokenizer"] = {
            "image": f"{config.image_size}x{config.image_size}x{config.channels}",
            "grid": f"{h}x{w}",
            "codes": config.codebook_size,
            "parameters": tokenizer.parameter_count(),
            "sha256": tokenizer.weights_sha256(),
        }
    if (folder / "prior" / "config.json").exists():
        prior = Prior.from_pretrained(folder / "prior", "cpu")
        shape = prior.config
        parts["prior"] = {
            "objective": shape.objective,
            "conditions": describe_conditions(shape),
            "shape": f"{shape.depth} layers, {shape.heads} heads, width {shape.width}",
            "tokens": shape.tokens,
            "classes": ", ".join(shape.class_names) or "none",
            "parameters": prior.parameter_count(),
            "tokenizer_sha256": shape.tokenizer_sha256,
        }
    if not parts:
        raise CheckpointError(f"{folder}: holds neither tokenizer/ nor prior/; is this a model folder?")
    if len(parts) == 2:
        parts["sampling_memory_mib"] = _by_batch(prior.config, tokenizer.config)
    return parts


def describe_sampling(
    folder: Path, n: int, batch_size: int | None, device: str, precision: str = "auto", **settings: Any
) -> dict[str, Any]:
    """What `imgtf sample` would take: read from the configurations alone, the weights stay on disk.

    Raises:
        CheckpointError: when a configuration is missing or damaged.
        ConfigError: for a setting out of range, an unknown dtype or a device that is not there.
    """
    place = pick_device(device)
    tokenizer: TokenizerConfig = Tokenizer.read_config(folder / "tokenizer")
    prior: PriorConfig = Prior.read_config(folder / "prior")
    precision = sampling_precision(precision, prior, place)
    kind, sampling = DTYPES[precision], sampling_settings(prior, **settings)
    guided = sampling.cfg_scale != 1 and bool(prior.conditions)
    free = free_memory(place)
    if batch_size is None:
        weights = sampling_memory(prior, tokenizer, 1, device=place.type, dtype=kind).weights
        batch_size = auto_batch(
            prior, tokenizer, n, free - weights, settings=sampling, device=place.type, dtype=kind
        )
    memory = sampling_memory(
        prior, tokenizer, batch_size, kept=min(n, GRID_MOST), settings=sampling, device=place.type, dtype=kind
    )
    return {
        "images": n,
        "precision": precision,
        "batch_size": batch_size,
        "rows": batch_size * (2 if guided else 1),
        "steps": -(-n // batch_size) * step_count(prior, sampling),
        "parameters": {
            "tokenizer": parameter_count(tokenizer),
            "prior": parameter_count(prior),
        },
        "memory_mib": _in_mebibytes(memory) | {"free": mebibytes(free)},
    }


def _by_batch(prior: PriorConfig, tokenizer: TokenizerConfig) -> dict[str, float]:
    """The cache of an image (twice with guidance) and the peak of some batches, with the prior's own settings."""
    rows = 2 if prior.sampling.cfg_scale != 1 and prior.conditions else 1
    peaks = {
        f"batch_{batch}": mebibytes(sampling_memory(prior, tokenizer, batch, kept=batch).peak)
        for batch in BATCHES
    }
    return {"cache_an_image": mebibytes(cache_bytes(prior, rows))} | peaks


def _in_mebibytes(memory: SamplingMemory) -> dict[str, float]:
    parts = {name: mebibytes(count) for name, count in asdict(memory).items() if name != "captured"}
    return parts | {"peak": mebibytes(memory.peak)}


def mebibytes(count: int) -> float:
    """Bytes in MiB, to a kilobyte or so."""
    return round(count / 2**20, 3)
