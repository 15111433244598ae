"""Accelerate, set up for a run: device, precision and experiment trackers."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers

from ..errors import ConfigError
from ..runtime.compiler import check_compiler
from ..runtime.device import pick_device
from ..runtime.precision import pick_precision
from .config import TRACKERS, TrainingConfig
from .sharding import check_sharding


def make_accelerator(config: TrainingConfig, folder: Path | None = None) -> Accelerator:
    """Return an `Accelerator` with the device, the precision and the trackers of the settings.

    Args:
        folder: folder of the run, where trackers write files.

    Raises:
        ConfigError: a device, precision, compiler or tracker is not available.
    """
    check_trackers(config)
    device = _training_device(config.device)
    precision = pick_precision(config.precision, device)
    if config.compile:
        check_compiler(device)
    # Accelerate keeps the settings of the first run in a process, but one process may train several times.
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    accelerator = Accelerator(
        mixed_precision="no" if precision == "fp32" else precision,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        cpu=device.type == "cpu",
        log_with=list(config.log_with) or None,
        project_dir=folder,
    )
    if config.shard:
        check_sharding(accelerator)
    return accelerator


def _training_device(name: str) -> torch.device:
    device = pick_device(name)
    if device.type == "cuda" and device.index is not None:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ConfigError(f"device {name}: each of several processes has its own GPU; use cuda or auto")
        torch.cuda.set_device(device)  # Accelerate trains on the current device
    return device


def check_trackers(config: TrainingConfig) -> None:
    """Raise ConfigError with an install command if the package of a tracker is missing."""
    available = {tracker.value for tracker in get_available_trackers()}
    missing = [name for name in config.log_with if name not in available]
    if missing:
        packages = " ".join(TRACKERS[name] for name in missing)
        raise ConfigError(f"log_with {', '.join(missing)}: not installed; run pip install {packages}")
