"""Arithmetic precisions: their names, their torch types, and the choice of `auto` on a device."""

from __future__ import annotations

import torch

from ..errors import ConfigError
from .machine import processor_name

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.int8}
"""Precision names to torch types. int8 is a type of weights only (see `prior.decoding.quantized`)."""


def as_precision(value: str | torch.dtype) -> str:
    """Return the name of a precision, given by its name (or `auto`) or as a torch dtype.

    Raises:
        ConfigError: neither a known name nor a supported dtype.
    """
    names = ("auto", *DTYPES)
    name = next((name for name, dtype in DTYPES.items() if value == dtype), value)
    if isinstance(name, str) and name in names:
        return name
    raise ConfigError(f"precision must be one of {', '.join(names)} or their torch dtype, got {value!r}")


def pick_precision(precision: str, device: torch.device) -> str:
    """Return the precision to compute in: `auto` is bf16 if the hardware supports it, else fp32 (fp16 on a GPU).

    Raises:
        ConfigError: fp16 on a CPU.
    """
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError("precision fp16 needs a GPU: use bf16 or fp32")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if fast_bf16_cpu() else "fp32"


def fast_bf16_cpu() -> bool:
    """Return whether this processor multiplies bf16 faster than float32.

    Emulated bf16 is slower. So is avx512_bf16 of Intel, which has one unit for it and two for float32: 82
    against 154 GFLOP/s on a Xeon (Sapphire Rapids) whose AMX is switched off. AMD's avx512_bf16 is several times as
    fast as float32.
    """
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    if capabilities.get("avx512_bf16") and not processor_name().startswith("Intel"):
        return True
    return any(capabilities.get(name) for name in ("amx_bf16", "bf16"))
