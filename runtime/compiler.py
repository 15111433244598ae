"""`torch.compile` for training: whether it can work here, found out before the run and not in a long traceback."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from ..errors import ConfigError


def check_compiler(device: torch.device) -> None:
    """Compiles a function of one line for the device.

    Raises:
        ConfigError: where that fails, mostly for want of a C++ compiler (CPU) or of Triton (GPU).
    """
    try:
        with warnings.catch_warnings():  # torch warns of its own parts when inductor is first imported
            warnings.simplefilter("ignore")
            torch.compile(_line)(torch.ones(8, device=device))
    except Exception as error:  # of any type: inductor's own, a compiler's, Triton's
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        needs = (
            "a C++ compiler (g++ or clang, or $CXX)" if device.type == "cpu" else "Triton and a C compiler"
        )
        raise ConfigError(
            f"compile: torch.compile does not work here ({reason.strip()}); it needs {needs}. Go without --compile"
        ) from error


def compiled(model: nn.Module, eager: Iterable[nn.Module] = ()) -> Callable[..., Any]:
    """A plain function that does what calling the model does, compiled; the `eager` parts of it are left as they are.

    Not a module: it would hold the model's weights under second names. Calling the model itself stays uncompiled.
    """
    for part in eager:
        part.forward = torch.compiler.disable(part.forward)

    def call(*inputs: Any, **named: Any) -> Any:
        return model(*inputs, **named)

    return torch.compile(call)


def _line(x: torch.Tensor) -> torch.Tensor:
    return x.sin() + 1
