"""Imports of optional packages, with a one-line error if one is missing."""

from __future__ import annotations

import atexit
import importlib
import os
import shutil
import sys
import tempfile
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


def matplotlib_figure(**options: Any) -> Any:
    """Return a new figure of matplotlib, which draws without a screen.

    matplotlib keeps a list of fonts in the home folder. A command writes nothing there: unless MPLCONFIGDIR names a
    folder, or matplotlib is in use already, the list goes into a temporary folder, at the cost of a second.
    """
    if "matplotlib" not in sys.modules and "MPLCONFIGDIR" not in os.environ:
        os.environ["MPLCONFIGDIR"] = folder = tempfile.mkdtemp(prefix="imgtf-matplotlib-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    from matplotlib.figure import Figure

    return Figure(**options)
