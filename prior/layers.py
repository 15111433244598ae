"""The transformer block of the prior and of its condition encoder.

Shapes: B batch, n tokens, N sequence length, S prefix length, D width.
"""

from __future__ import annotations

from typing import TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..nn import norms
from ..nn.attention import AttentionInputs, CrossAttention, SelfAttention
from ..nn.feed_forward import GeluMLP, SwiGLU
from ..runtime.batch_random import BatchDropout, batch_rand
from .config import PriorConfig


class AttentionOptions(TypedDict):
    """Keyword arguments of both kinds of attention."""

    key_heads: int
    bias: bool
    dropout: float
    qk_norm_eps: float | None


class Block(nn.Module):
    """Pre-norm transformer block: self-attention, cross-attention with `cross`, feed-forward layer."""

    def __init__(self, config: PriorConfig, layer: int, *, cross: bool = False) -> None:
        super().__init__()
        self.attention_norm = make_norm(config)
        self.attention = SelfAttention(config.width, config.heads, **_attention_options(config))
        self.cross_norm = make_norm(config) if cross else None
        self.cross = (
            CrossAttention(config.width, config.heads, **_attention_options(config)) if cross else None
        )
        self.feed_forward_norm = make_norm(config)
        self.feed_forward = make_feed_forward(config)
        self.dropout = BatchDropout(config.dropout)
        self.drop_path = config.drop_path * (layer + 1) / config.depth

    def forward(self, x: Tensor, inputs: AttentionInputs) -> Tensor:
        """Map x (B, n, D) to (B, n, D)."""
        x = x + self._dropped(self.attention(self.attention_norm(x), inputs))
        if self.cross is not None and self.cross_norm is not None and inputs.encoder is not None:
            x = x + self._dropped(self.cross(self.cross_norm(x), inputs.encoder))
        return x + self._dropped(self.feed_forward(self.feed_forward_norm(x)))

    def _dropped(self, x: Tensor) -> Tensor:
        """In training: dropout and stochastic depth (arXiv:1603.09382), which zeroes rows and scales up the others."""
        if not self.training:
            return x
        x = self.dropout(x)
        if self.drop_path == 0:
            return x
        kept = batch_rand(len(x), 1, 1, device=x.device) >= self.drop_path
        return x * kept / (1 - self.drop_path) if self.drop_path < 1 else x * 0


def make_norm(config: PriorConfig) -> nn.Module:
    """Return the norm in front of each layer and of the head."""
    return norms.make_norm(config.norm, config.width, config.norm_eps, bias=config.bias)


def make_feed_forward(config: PriorConfig) -> nn.Module:
    """Return the feed-forward layer of a block."""
    layer = GeluMLP if config.feed_forward == "gelu" else SwiGLU
    return layer(config.width, config.mlp_width, bias=config.bias)


def _attention_options(config: PriorConfig) -> AttentionOptions:
    return {
        "key_heads": config.key_heads,
        "bias": config.bias,
        "dropout": config.attention_dropout,
        "qk_norm_eps": config.norm_eps if config.qk_norm else None,
    }


def prefix_mask(visible: Tensor, start: int, n: int, causal: bool) -> Tensor:
    """Return which keys the n tokens from position `start` attend to, (B, 1, n, start + n) bool.

    Each attends to itself and to the tokens before it (all tokens if not causal), except to prefix tokens that are not
    visible (B, S).
    """
    end = start + n
    shown = F.pad(visible, (0, max(0, end - visible.shape[1])), value=True)[:, None, None, :end]
    query = torch.arange(start, end, device=visible.device)[:, None]
    key = torch.arange(end, device=visible.device)
    return ((key < query) | (not causal)) & shown | (key == query)
