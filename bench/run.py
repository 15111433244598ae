"""`imgtf bench`: the speed of a model or a preset on this machine, as a fraction of the machine's limits."""

from __future__ import annotations

import logging
import tempfile
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch

from ..data.config import DataConfig
from ..options import size_text
from ..pipelines.request import sampling_precision
from ..prior.decoding.quantized import cast, compute_dtype
from ..runtime.device import pick_device
from ..runtime.machine import describe_machine
from ..runtime.precision import DTYPES, as_precision, pick_precision
from .config import BenchConfig
from .machine import Limits, measure_limits
from .networks import load_networks
from .sampling import bench_sampling
from .tokenizer import bench_tokenizer
from .training import TrainingSetup, bench_loader, bench_training

logger = logging.getLogger("imgtf")


def bench(
    config: BenchConfig,
    *,
    model: Path | None = None,
    preset: str = "tiny",
    data: DataConfig | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """Measure the parts that the configuration names. `report.to_markdown` formats the result.

    Args:
        model: folder of a trained model; None: networks of the preset with random weights.
        data: images whose loading is measured too.

    Raises:
        ImgtfError: a model or data that cannot be read, or a precision that is not available.
    """
    place = pick_device(device)
    tokenizer, prior = load_networks(model, preset, place)
    sampling = sampling_precision(config.precision, prior.config, place)
    training = pick_precision(config.training_precision, place)
    logger.info("bench: measuring the limits of the machine")
    limits = measure_limits(place, _measured_dtypes(sampling, training))
    report: dict[str, Any] = {
        "model": str(model) if model else f"{preset}, random weights",
        "tokenizer": f"{tokenizer.parameter_count():,} parameters, {size_text(tokenizer.config.image_size)} px",
        "prior": f"{prior.parameter_count():,} parameters, {prior.config.tokens} tokens",
        "machine": describe_machine(place),
        "limits": _describe_limits(limits),
    }
    if "sampling" in config.parts:
        converted = cast(deepcopy(prior), DTYPES[sampling])  # training keeps float32
        report["sampling"] = bench_sampling(converted, sampling, limits, config)
    if "tokenizer" in config.parts:
        report["encoding and decoding"] = bench_tokenizer(tokenizer, limits, config)
    if {"training", "loader"} & set(config.parts):
        with tempfile.TemporaryDirectory(prefix="imgtf-bench-") as folder:
            setup = TrainingSetup(tokenizer, prior, config, Path(folder), data)
            report |= _bench_training_and_loader(setup, limits, config)
    return report


def _bench_training_and_loader(setup: TrainingSetup, limits: Limits, config: BenchConfig) -> dict[str, Any]:
    steps = bench_training(setup, limits, config)  # the loader is compared with them
    report: dict[str, Any] = {}
    if "training" in config.parts:
        report["training"] = steps
    if "loader" in config.parts:
        report["loader"] = bench_loader(setup, steps, config)
    return report


def _measured_dtypes(sampling: str, training: str) -> set[torch.dtype]:
    """Return the types whose arithmetic some measurement is compared with."""
    return {torch.float32, torch.bfloat16, compute_dtype(DTYPES[sampling]), DTYPES[training]}


def _describe_limits(limits: Limits) -> dict[str, float]:
    flops = {f"{as_precision(dtype)} GFLOP/s": flops / 1e9 for dtype, flops in limits.flops.items()}
    return {"memory read GB/s": limits.read / 1e9, "memory copy GB/s": limits.copy / 1e9} | flops
