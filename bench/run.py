"""`imgtf bench`: what a model or a preset reaches on this machine, and how far that is from the machine's limits."""

from __future__ import annotations

import logging
import tempfile
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..data.config import DataConfig
from ..errors import ConfigError
from ..options import build
from ..pipelines.pipeline import Pipeline, sampling_type
from ..pipelines.settings import load_presets, option_names
from ..prior.config import PriorConfig
from ..prior.decoding.quantized import cast, compute_dtype
from ..prior.model import Prior
from ..runtime.device import pick_device
from ..runtime.precision import pick_precision
from ..tokenizer.config import TokenizerConfig
from ..tokenizer.model import Tokenizer
from .coding import bench_coding
from .config import BenchConfig
from .machine import Limits, describe_machine, measure_limits, type_name
from .sampling import bench_sampling
from .training import TYPES, TrainingSetup, bench_loader, bench_training

logger = logging.getLogger("imgtf")

CLASSES = 10
"""Labels of a prior with random weights: their number changes no speed."""


def bench(
    config: BenchConfig,
    *,
    model: Path | None = None,
    preset: str = "tiny",
    data: DataConfig | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """Measures the parts that the configuration names; the result is what `report.to_markdown` draws.

    Args:
        model: folder of a trained model; without it the preset's networks get random weights.
        data: images whose loading is timed too.

    Raises:
        ImgtfError: for a model that cannot be read, or data that do not open.
    """
    place = pick_device(device)
    tokenizer, prior = _networks(model, preset, place)
    types = {torch.float32, torch.bfloat16, compute_dtype(sampling_type(config.dtype))}
    precision = pick_precision(config.precision, place)
    types.add(TYPES.get(precision, torch.float32))
    logger.info("bench: measuring the machine's limits")
    limits = measure_limits(place, types)
    report: dict[str, Any] = {
        "model": str(model) if model else f"{preset}, random weights",
        "tokenizer": f"{tokenizer.parameter_count():,} parameters, {tokenizer.config.image_size} px",
        "prior": f"{prior.parameter_count():,} parameters, {prior.config.tokens} tokens",
        "machine": describe_machine(place),
        "limits": _in_words(limits),
    }
    if "sampling" in config.parts:
        sampled = cast(deepcopy(prior), sampling_type(config.dtype))  # training keeps float32
        report["sampling"] = bench_sampling(sampled, limits, config)
    if "tokenizer" in config.parts:
        report["tokenizer coding"] = bench_coding(tokenizer, limits, config)
    if {"training", "loader"} & set(config.parts):
        with tempfile.TemporaryDirectory(prefix="imgtf-bench-") as folder:
            report |= _train(tokenizer, prior, limits, config, Path(folder), data)
    return report


def _train(
    tokenizer: Tokenizer,
    prior: Prior,
    limits: Limits,
    config: BenchConfig,
    folder: Path,
    data: DataConfig | None,
) -> dict[str, Any]:
    shop = TrainingSetup(tokenizer, prior, config, folder, data)
    report: dict[str, Any] = {}
    steps = bench_training(shop, limits, config)
    if "training" in config.parts:
        report["training"] = steps
    if "loader" in config.parts:
        report["loader"] = bench_loader(shop, steps, config, real=data is not None)
    return report


def _networks(model: Path | None, preset: str, device: torch.device) -> tuple[Tokenizer, Prior]:
    if model is None:
        return random_networks(preset, device)
    pipeline = Pipeline.from_pretrained(model, device)
    return pipeline.tokenizer, pipeline.prior


def random_networks(preset: str, device: torch.device) -> tuple[Tokenizer, Prior]:
    """A preset's tokenizer and prior with random weights.

    Raises:
        ConfigError: when the prior has no preset of that name.
    """
    torch.manual_seed(0)
    tokenizer = Tokenizer(tokenizer_config(preset))
    prior = Prior(_prior_config(preset, tokenizer.config))
    for parameter in prior.parameters():  # the head starts at zero: all codes alike would be a special case
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return tokenizer.to(device).eval(), prior.to(device).eval()


def tokenizer_config(preset: str) -> TokenizerConfig:
    """The tokenizer's preset of that name, or the largest: a prior's preset may stand alone."""
    presets = load_presets("tokenizer")
    values = presets.get(preset) or list(presets.values())[-1]
    return build(TokenizerConfig, {k: v for k, v in values.items() if k in option_names(TokenizerConfig)})


def _prior_config(preset: str, tokenizer: TokenizerConfig) -> PriorConfig:
    presets = load_presets("prior")
    if preset not in presets:
        raise ConfigError(f"no preset {preset!r}; there are {', '.join(presets)}")
    values = {k: v for k, v in presets[preset].items() if k in option_names(PriorConfig)}
    names = [str(i) for i in range(CLASSES)]
    fixed = {"grid": tokenizer.grid, "codebook_size": tokenizer.codebook_size, "class_names": names}
    return build(PriorConfig, values | fixed)


def _in_words(limits: Limits) -> dict[str, float]:
    flops = {f"{type_name(dtype)} GFLOP/s": f / 1e9 for dtype, f in limits.flops.items()}
    return {"read GB/s": limits.read / 1e9, "copy GB/s": limits.copy / 1e9} | flops
