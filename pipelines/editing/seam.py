"""Kept pixels pasted over a decoded image, without a visible seam.

Shapes: C channels, H, W image.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor


def paste_kept(decoded: Image.Image, kept: Image.Image, redrawn: np.ndarray, feather: int) -> Image.Image:
    """Return the kept image, with the decoded image in the redrawn pixels.

    A decoded image differs from the kept one everywhere, as no tokenizer is exact. At the border, this difference is
    carried into the redrawn pixels and fades over `feather` pixels. So kept pixels stay as they are, and redrawn pixels
    show nothing of what was there.

    Args:
        decoded, kept: same size and mode (L, I;16 or RGB).
        redrawn: (H, W) bool.
        feather: in pixels; 0 leaves a hard border.
    """
    new, old = _to_tensor(decoded), _to_tensor(kept)  # (C, H, W)
    mask = torch.from_numpy(redrawn)
    mixed = torch.where(mask, new + carried_inwards(old - new, mask, feather), old)
    top = 65535 if decoded.mode == "I;16" else 255
    pixels = mixed.clamp(0, top).round().permute(1, 2, 0).numpy().astype(np.asarray(decoded).dtype)
    return Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if len(mixed) == 1 else pixels))


def carried_inwards(values: Tensor, redrawn: Tensor, steps: int) -> Tensor:
    """Return values (C, H, W) of the kept pixels, carried into the redrawn ones: 0 beyond `steps` pixels.

    Each step gives every redrawn pixel with valued neighbours their mean. The values fade linearly with the steps.
    """
    known = (~redrawn).to(values.dtype)[None]  # (1, H, W)
    values = values * known
    faded = torch.zeros_like(values)
    for step in range(1, steps + 1):
        count = _neighbours(known)
        edge = (known == 0) & (count > 0)
        if not edge.any():
            break
        values = torch.where(edge, _neighbours(values) / count.clamp_min(1), values)
        faded = torch.where(edge, values * (1 - step / (steps + 1)), faded)
        known = known + edge
    return faded


def _neighbours(x: Tensor) -> Tensor:
    """Return the sum over 3x3 pixels, (C, H, W)."""
    return F.avg_pool2d(x[None], 3, 1, 1, divisor_override=1)[0]


def _to_tensor(image: Image.Image) -> Tensor:
    pixels = np.atleast_3d(np.asarray(image)).astype(np.float32)
    return torch.from_numpy(pixels).permute(2, 0, 1)
