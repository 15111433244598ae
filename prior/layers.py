"""The transformer block: self-attention, cross-attention where there is a memory, and a feed-forward layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import PriorConfig
from .decoding.packed import Linear
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
    past: tuple[Tensor, Tensor] | None = None
    """Keys and values (B, key_heads, room, head_width) of one layer's slots before, see `KVCache.layer`; those of the
    pass are written into them."""
    slot: int = 0
    """Number of slots before."""
    at: Tensor | None = None
    """The same as (1,) int64, for a pass of one slot in a step that is a function of tensors."""
    bias: Tensor | None = None
    """(room,) or (B, 1, 1, room), with `at`: added to the scores it hides slots that are not there to be read."""
    memory: Tensor | None = None
    """(B, M, D) for cross-attention, where there is no cache."""
    memory_past: tuple[Tensor, Tensor] | None = None
    """Its keys and values (B, key_heads, M, head_width) in one layer, where there is one."""
    memory_mask: Tensor | None = None
    """(B, 1, 1, M)."""
    target: Tensor | None = None
    """Rotary angles of cross-attention's queries."""
    memory_turns: Tensor | None = None
    """Rotary angles of the memory's keys, (M, head_width / 2, 2)."""


class Attention(nn.Module):
    """Multi-head self-attention, with grouped-query heads where `kv_heads` says so (arXiv:2305.13245)."""

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        self.heads, self.key_heads, self.dropout = config.heads, config.key_heads, config.attention_dropout
        rows = (config.heads + 2 * config.key_heads) * config.head_width
        self.normed = config.qk_norm
        self.qkv = Linear(config.width, rows, bias=config.bias)
        self.proj = Linear(config.width, config.width, bias=config.bias)
        self.q_norm, self.k_norm = head_norm(config), head_norm(config)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """x (B, n, D): the whole sequence, or with a cache the slots that come next."""
        qkv = self.qkv(x).unflatten(-1, (self.heads + 2 * self.key_heads, -1)).transpose(1, 2)
        q, k, v = self._turned(qkv, context)  # (B, heads, n, head_width)
        y = self._attend(q, k, v, context) if context.past is None else self._decode(q, k, v, context)
        return self.proj(y.transpose(1, 2).flatten(2))  # (B, n, D)

    def _turned(self, qkv: Tensor, context: Context) -> tuple[Tensor, ...]:
        """Queries, keys and values, normalised and turned as the configuration has it."""
        heads = [self.heads, self.key_heads, self.key_heads]
        if context.query is not None and context.query is context.key and not self.normed:  # all at once
            both, v = qkv.split([self.heads + self.key_heads, self.key_heads], dim=1)
            return *rotate(both, context.query).split(heads[:2], dim=1), v
        q, k, v = qkv.split(heads, dim=1)
        q, k = self.q_norm(q), self.k_norm(k)
        if context.query is not None and context.key is not None:
            q, k = rotate(q, context.query), rotate(k, context.key)
        return q, k, v

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        causal = context.causal and context.mask is None and q.shape[2] > 1
        return attend(q, k, v, context.mask, causal, self.dropout if self.training else 0.0)

    def _decode(self, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        """The same with the keys and values of the slots before."""
        assert context.past is not None
        keys, values = context.past
        if context.at is not None and context.bias is not None:
            keys.index_copy_(2, context.at, k)
            values.index_copy_(2, context.at, v)
            return attend_one(q, keys, values, context.bias)
        end = context.slot + q.shape[2]
        keys[:, :, context.slot : end] = k
        values[:, :, context.slot : end] = v
        return self._attend(q, keys[:, :, :end], values[:, :, :end], context)


class CrossAttention(nn.Module):
    """Attention of every slot to the memory of the condition (Vaswani et al. 2017, arXiv:1706.03762)."""

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        self.heads, self.key_heads, self.dropout = config.heads, config.key_heads, config.attention_dropout
        self.q = Linear(config.width, config.width, bias=config.bias)
        self.kv = Linear(config.width, 2 * config.key_heads * config.head_width, bias=config.bias)
        self.proj = Linear(config.width, config.width, bias=config.bias)
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
        if context.memory_past is not None:
            k, v = context.memory_past
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


def attend_one(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Attention of one slot q (B, heads, 1, head_width) to k, v (B, key_heads, keys, head_width).

    `bias` (keys,) or (B, 1, 1, keys) is added to the scores. On a CPU two plain batched products read the keys at the
    speed of memory, several times faster than torch's fused attention (64 x 12 heads of 64, 256 keys, bf16: 4 ms
    against 21), which is made for many queries.
    """
    if bias.dim() > 1:
        bias = bias.expand(-1, k.shape[1], -1, -1).flatten(0, 1)  # (B * key_heads, 1, keys)
    k, v = k.flatten(0, 1), v.flatten(0, 1)
    rows = (q * q.shape[-1] ** -0.5).view(len(k), -1, q.shape[-1])  # (B * key_heads, groups, head_width)
    weights = torch.bmm(rows, k.mT).add_(bias).softmax(-1)
    return torch.bmm(weights, v).view(q.shape)


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
        self.gate = Linear(config.width, config.mlp_width, bias=config.bias)
        self.up = Linear(config.width, config.mlp_width, bias=config.bias)
        self.down = Linear(config.mlp_width, config.width, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class GeluFeedForward(nn.Module):
    """Two layers around the exact GELU (GPT-2; minGPT)."""

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        self.up = Linear(config.width, config.mlp_width, bias=config.bias)
        self.down = Linear(config.mlp_width, config.width, bias=config.bias)

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
        self.attention = Attention(config)
        self.cross_norm = make_norm(config) if cross else None
        self.cross = CrossAttention(config) if cross else None
        self.feed_forward_norm = make_norm(config)
        self.feed_forward = make_feed_forward(config)
        self.dropout = nn.Dropout(config.dropout)
        self.drop_path = config.drop_path * (layer + 1) / config.depth

    def forward(self, x: Tensor, context: Context) -> Tensor:
        x = x + self._dropped(self.attention(self.attention_norm(x), context))
        if self.cross is not None and self.cross_norm is not None:
            x = x + self._dropped(self.cross(self.cross_norm(x), context))
        return x + self._dropped(self.feed_forward(self.feed_forward_norm(x)))

    def _dropped(self, x: Tensor) -> Tensor:
        """In training: dropout, and stochastic depth (arXiv:1603.09382): rows at random add nothing, others more."""
        if not self.training:
            return x
        x = self.dropout(x)
        if self.drop_path == 0:
            return x
        kept = torch.rand(len(x), 1, 1, device=x.device) >= self.drop_path
        return x * kept / (1 - self.drop_path) if self.drop_path < 1 else x * 0
