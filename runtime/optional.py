"""Optional packages, imported when they are needed, with one clear line where they are missing."""

from __future__ import annotations

import importlib
from typing import Any

import torch

from ..errors import ImgtfError

_operators: torch.library.Library | None = None


def import_with_torchvision(package: str) -> Any:
    """A package that imports torchvision, also beside a CPU build of torch.

    The registry's torchvision is built for CUDA: its compiled operators do not load beside a CPU torch, and the
    import stops at two of them. Only detection models call these (never LPIPS or a metric), so declaring their
    names is enough; calling them would still raise.
    """
    global _operators
    try:
        try:
            return importlib.import_module(package)
        except RuntimeError as error:
            if "torchvision::" not in str(error):
                raise
            _operators = torch.library.Library("torchvision", "DEF")  # lives as long as the process
            for name in ("nms", "qnms"):
                _operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            return importlib.import_module(package)
    except (ImportError, RuntimeError) as error:
        raise ImgtfError(
            f"{package} cannot be imported ({str(error).splitlines()[0]}): install it, and a torchvision that "
            f"belongs to torch {torch.__version__}"
        ) from error
