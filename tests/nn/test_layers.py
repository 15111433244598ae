"""Feed-forward layers and norms."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from imgtf.nn.feed_forward import GeluMLP, SwiGLU
from imgtf.nn.norms import make_norm


@pytest.mark.parametrize("bias", [False, True])
def test_feed_forward_layers_equal_their_formulas(bias: bool) -> None:
    x, gated, plain = torch.randn(2, 3, 8), SwiGLU(8, 20, bias=bias), GeluMLP(8, 20, bias=bias)
    torch.testing.assert_close(gated(x), gated.down(F.silu(gated.gate(x)) * gated.up(x)))
    torch.testing.assert_close(plain(x), plain.down(F.gelu(plain.up(x))))
    assert (gated.up.bias is not None) == (plain.down.bias is not None) == bias


def test_norms_by_name() -> None:
    assert isinstance(make_norm("rms", 8, 1e-6), nn.RMSNorm)
    layer = make_norm("layer", 8, 1e-6, bias=False)
    assert isinstance(layer, nn.LayerNorm)
    assert layer.bias is None
    assert layer.eps == 1e-6
    with pytest.raises(ValueError, match="batch"):
        make_norm("batch", 8)
