"""The transformer block: causal self-attention and a feed-forward layer, each before a residual sum."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cache import KVCache
from .config import PriorConfig
from .positions import rotate

SHORT = 128
"""Sequences up to this length are attended to by plain matrix products in bf16 on a CPU: the backward pass of
torch's fused attention there took 21 ms against 4 at 64 slots (64 x 4 heads of 32, two Xeon cores, torch 2.13)."""


class Attention(nn.Module):
    """Causal multi-head self-attention; with a rotary table, queries and keys turn by their place."""

    def __init__(self, config: PriorConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=config.bias)
        self.proj = nn.Linear(config.width, config.width, bias=config.bias)
        norm = config.head_width if config.qk_norm else None
        self.q_norm = nn.RMSNorm(norm, eps=config.norm_eps) if norm else nn.Identity()
        self.k_norm = nn.RMSNorm(norm, eps=config.norm_eps) if norm else nn.Identity()

    def forward(
        self,
        x: Tensor,
        rotary: Tensor | None,
        cache: KVCache | None = None,
        slot: int = 0,
        mask: Tensor | None = None,
    ) -> Tensor:
        """x (B, S, D): the whole sequence, or with a cache the slots that come next, from `slot` on.

        The mask (B, 1, S, keys) is only needed where slots are hidden; without it attention is causal.
        """
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in self.qkv(x).chunk(3, dim=-1))
        q, k = self.q_norm(q), self.k_norm(k)  # (B, heads, S, head_width)
        if rotary is not None:
            q, k = rotate(q, rotary), rotate(k, rotary)
        if cache is not None:
            k, v = cache.put(self.layer, slot, k, v)  # (B, heads, slot + S, head_width)
        if mask is not None or q.shape[2] == 1:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        else:
            y = causal_attention(q, k, v)
        return self.proj(y.transpose(1, 2).flatten(2))  # (B, S, D)


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of every slot to itself and those before it, (B, heads, S, head_width) each."""
    S = q.shape[-2]
    if q.device.type != "cpu" or q.dtype != torch.bfloat16 or S > SHORT:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    mask = torch.full((S, S), -torch.inf, dtype=q.dtype).triu(1)
    scores = torch.baddbmm(mask, q.flatten(0, 1), k.flatten(0, 1).mT, alpha=q.shape[-1] ** -0.5)
    weights = scores.softmax(-1, dtype=torch.float32).to(v.dtype)  # (B * heads, S, S)
    return (weights @ v.flatten(0, 1)).view_as(q)


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.width, config.feed_forward_width, bias=config.bias)
        self.up = nn.Linear(config.width, config.feed_forward_width, bias=config.bias)
        self.down = nn.Linear(config.feed_forward_width, config.width, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class GeluFeedForward(nn.Module):
    """Two layers around the exact GELU (GPT-2; minGPT)."""

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.width, config.feed_forward_width, bias=config.bias)
        self.down = nn.Linear(config.feed_forward_width, config.width, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))


def make_norm(config: PriorConfig) -> nn.Module:
    """The normalisation before each layer and before the head."""
    if config.norm == "layer":
        return nn.LayerNorm(config.width, eps=config.norm_eps, bias=config.bias)
    return nn.RMSNorm(config.width, eps=config.norm_eps)


def make_feed_forward(config: PriorConfig) -> FeedForward | GeluFeedForward:
    """The layer that acts on each slot by itself."""
    return GeluFeedForward(config) if config.feed_forward == "gelu" else FeedForward(config)


class Block(nn.Module):
    """One layer of the transformer."""

    def __init__(self, config: PriorConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm = make_norm(config)
        self.attention = Attention(config, layer)
        self.feed_forward_norm = make_norm(config)
        self.feed_forward = make_feed_forward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        rotary: Tensor | None,
        cache: KVCache | None = None,
        slot: int = 0,
        mask: Tensor | None = None,
    ) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), rotary, cache, slot, mask))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))
