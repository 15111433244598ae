"""Accelerate's entry point for a run."""

from __future__ import annotations

from pathlib import Path

from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers

from ..errors import ConfigError
from ..runtime.compiler import check_compiler
from ..runtime.device import pick_device
from ..runtime.precision import pick_precision
from .config import TRACKERS, TrainingConfig


def make_accelerator(config: TrainingConfig, folder: Path | None = None) -> Accelerator:
    """Accelerate's entry point, with the device, the precision and the trackers that the configuration asks for.

    Args:
        folder: of the run, where trackers put files.

    Raises:
        ConfigError: for a device, a precision, a compiler or a tracker that is not there.
    """
    check_trackers(config)
    device = pick_device(config.device)
    precision = pick_precision(config.precision, device)
    if config.compile:
        check_compiler(device)
    # One process may train both stages; Accelerate would hold on to the first one's settings.
    AcceleratorState._reset_state()
    return Accelerator(
        mixed_precision="no" if precision == "fp32" else precision,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        cpu=device.type == "cpu",
        log_with=list(config.log_with) or None,
        project_dir=folder,
    )


def check_trackers(config: TrainingConfig) -> None:
    """ConfigError, with the command that installs it, for a tracker whose package is missing."""
    available = {tracker.value for tracker in get_available_trackers()}
    missing = [name for name in config.log_with if name not in available]
    if missing:
        packages = " ".join(TRACKERS[name] for name in missing)
        raise ConfigError(f"log_with {', '.join(missing)}: not installed; pip install {packages}")
