"""`torch.compile`: whether it works on this machine, and compiled calls of a module."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from ..errors import ConfigError


def check_compiler(device: torch.device) -> None:
    """Compile a small function for the device.

    Raises:
        ConfigError: where that fails, usually without a C++ compiler (CPU) or Triton (GPU).
    """
    try:
        with warnings.catch_warnings():  # torch warns about its own modules when inductor is first imported
            warnings.simplefilter("ignore")
            torch.compile(_small_function)(torch.ones(8, device=device))
    except Exception as error:  # inductor, a compiler and Triton each raise their own types
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        needs = (
            "a C++ compiler (g++ or clang, or $CXX)" if device.type == "cpu" else "Triton and a C compiler"
        )
        raise ConfigError(
            f"torch.compile fails on this machine ({reason.strip()}); install {needs}, or leave out --compile"
        ) from error


def compiled(model: Callable[..., Any], eager: Iterable[nn.Module] = ()) -> Callable[..., Any]:
    """Return a compiled function that computes what calling the model does; `eager` submodules stay uncompiled.

    It is not a module, so it does not register the weights under second names. Calling the model itself stays eager.
    """
    for module in eager:
        module.forward = torch.compiler.disable(module.forward)

    def call(*inputs: Any, **named: Any) -> Any:
        return model(*inputs, **named)

    return torch.compile(call)


def _small_function(x: torch.Tensor) -> torch.Tensor:
    return x.sin() + 1
