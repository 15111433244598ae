"""Imports of optional packages, with a one-line error if one is missing."""

from __future__ import annotations

import importlib
from typing import Any

import torch

from ..errors import ImgtfError

_operators: torch.library.Library | None = None


def import_with_torchvision(package: str) -> Any:
    """Import a package that imports torchvision, also with a CPU build of torch.

    The torchvision of the package registry is built for CUDA. Its compiled operators do not load with a CPU build of
    torch, and its import fails at two of them. Only detection models call these two (LPIPS and metrics do not), so
    declaring their names is enough. Calling them still raises.

    Raises:
        ImgtfError: the package, or a torchvision that fits this torch, is missing.
    """
    global _operators
    try:
        try:
            return importlib.import_module(package)
        except RuntimeError as error:
            if "torchvision::" not in str(error):
                raise
            _operators = torch.library.Library("torchvision", "DEF")  # registered while this object exists
            for name in ("nms", "qnms"):
                _operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            return importlib.import_module(package)
    except (ImportError, RuntimeError) as error:
        raise ImgtfError(
            f"{package} cannot be imported ({str(error).splitlines()[0]}): install it, and a torchvision for "
            f"torch {torch.__version__}"
        ) from error
