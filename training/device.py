"""Where and in which arithmetic to compute."""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers

from ..errors import ConfigError
from .compiled import check_compiler
from .config import TRACKERS, TrainingConfig


def pick_device(wanted: str) -> torch.device:
    """`auto` takes a GPU if there is one; anything else is taken literally.

    Raises:
        ConfigError: for a device that this machine lacks.
    """
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device {wanted}: not on this machine ({reason}); try auto") from error
    return device


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
        gradient_accumulation_steps=config.accumulate,
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


def pick_precision(wanted: str, device: torch.device) -> str:
    """fp32, bf16 or fp16; `auto` takes bf16 where the hardware has it."""
    if wanted == "fp16" and device.type == "cpu":
        raise ConfigError("precision fp16 needs a GPU; use bf16 or fp32")
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if fast_bf16_cpu() else "fp32"


def fast_bf16_cpu() -> bool:
    """Whether this processor multiplies bf16 in hardware (elsewhere it is emulated and slower than fp32)."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(capabilities.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))
