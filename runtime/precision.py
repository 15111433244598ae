"""Which arithmetic to compute in: names of precisions, their torch types, and what `auto` means on a device."""

from __future__ import annotations

import torch

from ..errors import ConfigError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.int8}
"""Precision names to torch types. int8 is a type of the weights only: see `prior.decoding.quantized`."""


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
