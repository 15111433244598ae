"""Scaled dot-product attention: torch's fused kernel, and plain matrix products where these are faster on a CPU.

Shapes: B batch, n queries, q (B, heads, n, head_width), k and v (B, key_heads, keys, head_width).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SHORT_SEQUENCE = 128
"""Up to this length attention in bf16 on a CPU uses plain matrix products: the backward pass of torch's fused
attention took 21 ms against 4 ms (batch 64, 4 heads of 32, 64 tokens, two Xeon cores, torch 2.13)."""


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, dropout: float) -> Tensor:
    """Return the attention of q to k and v, (B, heads, n, head_width).

    `mask` is bool (True: attended to) or added to the scores. Groups of query heads share a key head where there are
    fewer key heads.
    """
    if k.shape[1] != q.shape[1]:
        return _attend_grouped(q, k, v, mask, causal, dropout)
    small = q.device.type == "cpu" and q.dtype == torch.bfloat16 and 1 < q.shape[2] <= SHORT_SEQUENCE
    if small and dropout == 0 and k.shape[2] <= SHORT_SEQUENCE:
        return _attend_short(q, k, v, mask, causal)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, dropout_p=dropout)


def attend_one(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Return the attention of one query per row, q (B, heads, 1, head_width), to k and v.

    `bias` (keys,) or (B, 1, 1, keys) is added to the scores. On a CPU two batched products read the keys at memory
    speed; torch's fused attention is made for many queries (64 x 12 heads of 64, 256 keys, bf16: 21 ms against 4 ms).
    """
    if bias.dim() > 1:
        bias = bias.expand(-1, k.shape[1], -1, -1).flatten(0, 1)  # (B * key_heads, 1, keys)
    k, v = k.flatten(0, 1), v.flatten(0, 1)
    rows = (q * q.shape[-1] ** -0.5).view(len(k), -1, q.shape[-1])  # (B * key_heads, groups, head_width)
    weights = torch.bmm(rows, k.mT).add_(bias).softmax(-1)
    return torch.bmm(weights, v).view(q.shape)


def weights_of_one(q: Tensor, k: Tensor, mask: Tensor | None, causal: bool, query: int) -> Tensor:
    """Return the weights (B, heads, keys) float32 with which query number `query` of q attends to the keys.

    The other arguments are those of `attend`, which never computes the weights themselves. Each row sums to 1.
    """
    groups = q.shape[1] // k.shape[1]
    own = q[:, :, query].float().unflatten(1, (-1, groups))  # (B, key_heads, groups, head_width)
    scores = (own @ k.float().mT * q.shape[-1] ** -0.5).flatten(1, 2)  # (B, heads, keys)
    if causal:
        scores[..., query + 1 :] = -torch.inf
    if mask is not None:
        own_mask = mask[..., min(query, mask.shape[-2] - 1), :]  # (B or 1, heads or 1, keys)
        scores = scores.masked_fill(~own_mask, -torch.inf) if mask.dtype == torch.bool else scores + own_mask
    return scores.softmax(-1)


def _attend_grouped(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, dropout: float
) -> Tensor:
    """Grouped-query attention; a single query needs no copies of the keys."""
    groups = q.shape[1] // k.shape[1]
    if q.shape[2] == 1 and (mask is None or mask.shape[2] == 1):
        rows = q.unflatten(1, (-1, groups)).squeeze(3)  # (B, key_heads, groups, head_width)
        return attend(rows, k, v, mask, False, dropout).flatten(1, 2)[:, :, None]
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal, dropout_p=dropout, enable_gqa=True
    )


def _attend_short(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    bias = _score_bias(q, k, mask, causal)
    scale = q.shape[-1] ** -0.5
    if bias.dim() <= 2:  # the same for all rows: one fused call
        scores = torch.baddbmm(bias, q.flatten(0, 1), k.flatten(0, 1).mT, alpha=scale).view(*q.shape[:3], -1)
    else:
        scores = (q * scale) @ k.mT + bias
    return scores.softmax(-1, dtype=torch.float32).to(v.dtype) @ v


def _score_bias(q: Tensor, k: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """Return the mask as a tensor that is added to the scores, in the type of q."""
    if causal:
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril()
    if mask is None:
        return q.new_zeros(())
    return torch.zeros_like(mask, dtype=q.dtype).masked_fill_(~mask, -torch.inf)
