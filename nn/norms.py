"""Normalisation layers by name."""

from __future__ import annotations

from torch import nn


def make_norm(kind: str, width: int, eps: float = 1e-5, *, bias: bool = True) -> nn.Module:
    """Return RMSNorm for `rms` (arXiv:1910.07467), LayerNorm for `layer`; `bias` applies to LayerNorm only."""
    if kind == "rms":
        return nn.RMSNorm(width, eps=eps)
    if kind == "layer":
        return nn.LayerNorm(width, eps=eps, bias=bias)
    raise ValueError(f"norm {kind!r}: use rms or layer")
