"""Where and in which arithmetic to compute."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from ..errors import ConfigError
from .config import TrainingConfig


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


def make_accelerator(config: TrainingConfig) -> Accelerator:
    """Accelerate's entry point, with the device and precision that the configuration asks for."""
    device = pick_device(config.device)
    precision = pick_precision(config.precision, device)
    # One process may train both stages; Accelerate would hold on to the first one's settings.
    AcceleratorState._reset_state()
    return Accelerator(
        mixed_precision="no" if precision == "fp32" else precision,
        gradient_accumulation_steps=config.accumulate,
        cpu=device.type == "cpu",
    )


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
