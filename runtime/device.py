"""Which device to compute on."""

from __future__ import annotations

import torch

from ..errors import ConfigError


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
