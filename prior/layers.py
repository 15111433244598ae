"""The transformer block: self-attention, cross-attention where there is a memory, and a feed-forward layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cache import KVCache
from .config import PriorConfig
from .positions import rotate

SHORT = 128
"""Sequences up to this length are attended to by plain matrix products in bf16 on a CPU: the backward pass of
torch's fused attention there took 21 ms against 4 at 64 slots (64 x 4 heads of 32, two Xeon cores, torch 2.13)."""


@dataclass(frozen=True)
class Context:
    """What the slots of one pass see besides themselves. B rows, n slots of this pass, M memory slots."""

    query: Tensor | None = None
    """Rotary angles of the queries, (n, head_width / 2, 2) or (B, 1, n, head_width / 2, 2)."""
    key: Tensor | None = None
    """The same for the keys."""
    mask: Tensor | None = None
    """(B or 1, 1, n, keys): which keys each slot reads. Needed only where causality does not say it all."""
    causal: bool = True
    """Without a mask: each slot reads itself and those before it, or all."""
    cache: KVCache | None = None
    """Where the slots before are; these are added to them."""
    slot: int = 0
    """Number of slots before."""
    memory: Tensor | None = None
    """(B, M, D) for cross-attention; with a cache its keys and values are there."""
    memory_mask: Tensor | None = None
    """(B, 1, 1, M)."""
    target: Tensor | None = None
    """Rotary angles of cross-attention's queries."""
    memory_turns: Tensor | None = None
    """Rotary angles of the memory's keys, (M, head_width / 2, 2)."""


class Attention(nn.Module):
    """Multi-head self-attention, with grouped-query heads where `kv_heads` says so (arXiv:2305.13245)."""

    def __init__(self, config: PriorConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.heads, self.key_heads, self.dropout = config.heads, config.key_heads, config.attention_dropout
        rows = (config.heads + 2 * config.key_heads) * config.head_width
        self.qkv = nn.Linear(config.width, rows, bias=config.bias)
        self.proj = nn.Linear(config.width, config.width, bias=config.bias)
        self.q_norm, self.k_norm = head_norm(config), head_norm(config)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """x (B, n, D): the whole sequence, or with a cache the slots that come next."""
        qkv = self.qkv(x).unflatten(-1, (self.heads + 2 * self.key_heads, -1)).transpose(1, 2)
        q, k, v = qkv.split([self.heads, self.key_heads, self.key_heads], dim=1)  # (B, heads, n, head_width)
        q, k = self.q_norm(q), self.k_norm(k)
        if context.query is not None and context.key is not None:
            q, k = rotate(q, context.query), rotate(k, context.key)
        if context.cache is not None:
            k, v = context.cache.put(self.layer, context.slot, k, v)  # (B, key_heads, slot + n, head_width)
        causal = context.causal and context.mask is None and q.shape[2] > 1
        y = attend(q, k, v, context.mask, causal, self.dropout if self.training else 0.0)
        return self.proj(y.transpose(1, 2).flatten(2))  # (B, n, D)


class CrossAttention(nn.Module):
    """Attention of every slot to the memory of the condition (Vaswani et al. 2017, arXiv:1706.03762)."""

    def __init__(self, config: PriorConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.heads, self.key_heads, self.dropout = config.heads, config.key_heads, config.attention_dropout
        self.q = nn.Linear(config.width, config.width, bias=config.bias)
        self.kv = nn.Linear(config.width, 2 * config.key_heads * config.head_width, bias=config.bias)
        self.proj = nn.Linear(config.width, config.width, bias=config.bias)
        self.q_norm, self.k_norm = head_norm(config), head_norm(config)

    def keys_values(self, memory: Tensor, turns: Tensor | None) -> tuple[Tensor, Tensor]:
        """Memory (B, M, D) to keys and values (B, key_heads, M, head_width)."""
        kv = self.kv(memory).unflatten(-1, (2 * self.key_heads, -1)).transpose(1, 2)
        k, v = kv.chunk(2, dim=1)
        k = self.k_norm(k)
        return (k if turns is None else rotate(k, turns)), v

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """x (B, n, D)."""
        q = self.q_norm(
            self.q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        )  # (B, heads, n, head_width)
        if context.memory_turns is not None and context.target is not None:
            q = rotate(q, context.target)
        if context.cache is not None:
            k, v = context.cache.memory[self.layer]
        else:
            assert context.memory is not None
            k, v = self.keys_values(context.memory, context.memory_turns)
        y = attend(q, k, v, context.memory_mask, False, self.dropout if self.training else 0.0)
        return self.proj(y.transpose(1, 2).flatten(2))  # (B, n, D)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, dropout: float) -> Tensor:
    """Attention of q (B, heads, n, head_width) to k, v (B, key_heads, keys, head_width)."""
    if k.shape[1] != q.shape[1]:
        return _attend_grouped(q, k, v, mask, causal, dropout)
    small = q.device.type == "cpu" and q.dtype == torch.bfloat16 and 1 < q.shape[2] <= SHORT
    if small and dropout == 0 and k.shape[2] <= SHORT:
        return _attend_plainly(q, k, v, mask, causal)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, dropout_p=dropout)


def _attend_grouped(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, dropout: float
) -> Tensor:
    """Groups of query heads that share keys; a single query needs no copies of them."""
    groups = q.shape[1] // k.shape[1]
    if q.shape[2] == 1 and (mask is None or mask.shape[2] == 1):
        rows = q.unflatten(1, (-1, groups)).squeeze(3)  # (B, key_heads, groups, head_width)
        return attend(rows, k, v, mask, False, dropout).flatten(1, 2)[:, :, None]
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal, dropout_p=dropout, enable_gqa=True
    )


def _attend_plainly(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    if causal:
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril()
    bias = (
        q.new_zeros(())
        if mask is None
        else torch.zeros_like(mask, dtype=q.dtype).masked_fill_(~mask, -torch.inf)
    )
    if bias.dim() <= 2:  # the same for all rows: one call
        scale = q.shape[-1] ** -0.5
        scores = torch.baddbmm(bias, q.flatten(0, 1), k.flatten(0, 1).mT, alpha=scale).view(*q.shape[:3], -1)
    else:
        scores = (q * q.shape[-1] ** -0.5) @ k.mT + bias
    return scores.softmax(-1, dtype=torch.float32).to(v.dtype) @ v


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


def head_norm(config: PriorConfig) -> nn.Module:
    """Of queries or keys, head by head."""
    return nn.RMSNorm(config.head_width, eps=config.norm_eps) if config.qk_norm else nn.Identity()


def make_feed_forward(config: PriorConfig) -> FeedForward | GeluFeedForward:
    """The layer that acts on each slot by itself."""
    return GeluFeedForward(config) if config.feed_forward == "gelu" else FeedForward(config)


class Block(nn.Module):
    """One layer of the transformer; with `cross` it reads the memory of the condition."""

    def __init__(self, config: PriorConfig, layer: int, *, cross: bool = False) -> None:
        super().__init__()
        self.attention_norm = make_norm(config)
        self.attention = Attention(config, layer)
        self.cross_norm = make_norm(config) if cross else None
        self.cross = CrossAttention(config, layer) if cross else None
        self.feed_forward_norm = make_norm(config)
        self.feed_forward = make_feed_forward(config)
        self.dropout = nn.Dropout(config.dropout)
        self.drop_path = config.drop_path * (layer + 1) / config.depth

    def forward(self, x: Tensor, context: Context) -> Tensor:
        x = x + self._some_rows(self.dropout(self.attention(self.attention_norm(x), context)))
        if self.cross is not None and self.cross_norm is not None:
            x = x + self._some_rows(self.dropout(self.cross(self.cross_norm(x), context)))
        return x + self._some_rows(self.dropout(self.feed_forward(self.feed_forward_norm(x))))

    def _some_rows(self, x: Tensor) -> Tensor:
        """Stochastic depth (arXiv:1603.09382): in training, rows at random add nothing, the others more."""
        if not self.training or self.drop_path == 0:
            return x
        kept = torch.rand(len(x), 1, 1, device=x.device) >= self.drop_path
        return x * kept / (1 - self.drop_path) if self.drop_path < 1 else x * 0
