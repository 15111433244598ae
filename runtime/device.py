"""Choice of the device to compute on."""

from __future__ import annotations

import torch

from ..errors import ConfigError


def pick_device(device: str | torch.device) -> torch.device:
    """Return the device of a name such as auto, cpu, cuda or cuda:1. `auto` is the first GPU, or else the CPU.

    Raises:
        ConfigError: an unknown name, or a device that this machine does not have.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        picked = torch.device(device)
        torch.empty(1, device=picked)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"device {device}: not available ({reason}); use auto, cpu, cuda or cuda:N"
        ) from error
    return picked
