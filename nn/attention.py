"""Self-attention and cross-attention, with grouped-query heads, rotary embedding and a KV cache.

Shapes: B batch, n tokens of one forward pass, N cached positions (capacity), L encoder states, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from .rotary import Rotary, rotate
from .scores import attend, attend_one, weights_of_one


@dataclass(frozen=True)
class LayerCache:
    """Cached keys and values of one layer. The forward pass writes those of its own tokens into them."""

    keys: Tensor
    """(B, key_heads, N, head_width)."""
    values: Tensor
    """(B, key_heads, N, head_width)."""
    position: int | Tensor
    """Sequence position of the pass's first token. (1,) int64 for a pass of one token whose position is a tensor."""
    bias: Tensor | None = None
    """(N,) or (B, 1, 1, N), with a tensor position: added to the scores, -inf at positions that are not attended to."""


@dataclass(frozen=True)
class EncoderInputs:
    """Encoder states for cross-attention: the states, or their keys and values where these are cached."""

    states: Tensor | None = None
    """(B, L, D)."""
    keys_values: tuple[Tensor, Tensor] | None = None
    """(B, key_heads, L, head_width) each, as `CrossAttention.keys_values` returns them."""
    mask: Tensor | None = None
    """(B, 1, 1, L), bool (True: attended to) or added to the scores."""
    rotary: Rotary | None = None
    """Rotary tables of the queries, by the position that each token predicts, and of the encoder states."""


@dataclass(frozen=True)
class AttentionInputs:
    """Everything that attention reads in addition to the tokens."""

    rotary: Rotary | None = None
    mask: Tensor | None = None
    """(B or 1, 1, n, keys) bool; True: attended to."""
    causal: bool = False
    """Without a mask: each token attends to itself and the tokens before it; False: to all tokens."""
    cache: LayerCache | None = None
    encoder: EncoderInputs | None = None


class SelfAttention(nn.Module):
    """Multi-head self-attention; with `key_heads` below `heads`, grouped-query attention (arXiv:2305.13245)."""

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        key_heads: int | None = None,
        bias: bool = False,
        dropout: float = 0.0,
        qk_norm_eps: float | None = None,
    ) -> None:
        """`qk_norm_eps`: epsilon of an RMSNorm on the queries and keys of each head; None: no such norm."""
        super().__init__()
        self.heads, self.key_heads, self.dropout = heads, key_heads or heads, dropout
        self.qk_norm = qk_norm_eps is not None
        rows = (self.heads + 2 * self.key_heads) * (width // heads)
        self.qkv = nn.Linear(width, rows, bias=bias)
        self.proj = nn.Linear(width, width, bias=bias)
        self.q_norm, self.k_norm = (_head_norm(width // heads, qk_norm_eps) for _ in range(2))

    def forward(self, x: Tensor, inputs: AttentionInputs) -> Tensor:
        """Map x (B, n, D), the whole sequence or the tokens after the cached ones, to (B, n, D)."""
        q, k, v = self._queries_keys_values(x, inputs.rotary)  # (B, heads, n, head_width)
        cache = inputs.cache
        y = self._attend(q, k, v, inputs) if cache is None else self._attend_cached(q, k, v, inputs, cache)
        return self.proj(y.transpose(1, 2).flatten(2))  # (B, n, D)

    def weights(self, x: Tensor, inputs: AttentionInputs, query: int) -> Tensor:
        """Return the weights (B, heads, n) with which token `query` attends to all in `forward`, without a cache."""
        q, k, _ = self._queries_keys_values(x, inputs.rotary)
        return weights_of_one(q, k, inputs.mask, inputs.causal and inputs.mask is None, query)

    def _queries_keys_values(self, x: Tensor, rotary: Rotary | None) -> tuple[Tensor, ...]:
        """Project, split, normalise and rotate."""
        qkv = self.qkv(x).unflatten(-1, (self.heads + 2 * self.key_heads, -1)).transpose(1, 2)
        heads = [self.heads, self.key_heads, self.key_heads]
        if rotary is not None and rotary.query is rotary.key and not self.qk_norm:  # one rotation of both
            both, v = qkv.split([self.heads + self.key_heads, self.key_heads], dim=1)
            return *rotate(both, rotary.query).split(heads[:2], dim=1), v
        q, k, v = qkv.split(heads, dim=1)
        q, k = self.q_norm(q), self.k_norm(k)
        return (q, k, v) if rotary is None else (rotate(q, rotary.query), rotate(k, rotary.key), v)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, inputs: AttentionInputs) -> Tensor:
        causal = inputs.causal and inputs.mask is None and q.shape[2] > 1
        return attend(q, k, v, inputs.mask, causal, self.dropout if self.training else 0.0)

    def _attend_cached(
        self, q: Tensor, k: Tensor, v: Tensor, inputs: AttentionInputs, cache: LayerCache
    ) -> Tensor:
        """Write k and v into the cache and attend to what it holds."""
        keys, values, position = cache.keys, cache.values, cache.position
        if isinstance(position, Tensor):
            assert cache.bias is not None
            keys.index_copy_(2, position, k)
            values.index_copy_(2, position, v)
            return attend_one(q, keys, values, cache.bias)
        end = position + q.shape[2]
        keys[:, :, position:end] = k
        values[:, :, position:end] = v
        return self._attend(q, keys[:, :, :end], values[:, :, :end], inputs)


class CrossAttention(nn.Module):
    """Multi-head attention to encoder states (Vaswani et al. 2017, arXiv:1706.03762)."""

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        key_heads: int | None = None,
        bias: bool = False,
        dropout: float = 0.0,
        qk_norm_eps: float | None = None,
    ) -> None:
        """See `SelfAttention`."""
        super().__init__()
        self.heads, self.key_heads, self.dropout = heads, key_heads or heads, dropout
        self.q = nn.Linear(width, width, bias=bias)
        self.kv = nn.Linear(width, 2 * self.key_heads * (width // heads), bias=bias)
        self.proj = nn.Linear(width, width, bias=bias)
        self.q_norm, self.k_norm = (_head_norm(width // heads, qk_norm_eps) for _ in range(2))

    def keys_values(self, states: Tensor, rotary: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the keys and values (B, key_heads, L, head_width) of encoder states (B, L, D), rotated by a table."""
        kv = self.kv(states).unflatten(-1, (2 * self.key_heads, -1)).transpose(1, 2)
        k, v = kv.chunk(2, dim=1)
        k = self.k_norm(k)
        return (k if rotary is None else rotate(k, rotary)), v

    def forward(self, x: Tensor, encoder: EncoderInputs) -> Tensor:
        """Map x (B, n, D) to (B, n, D)."""
        q = self._queries(x, encoder.rotary)  # (B, heads, n, head_width)
        k, v = encoder.keys_values or self._keys_values(encoder)
        y = attend(q, k, v, encoder.mask, False, self.dropout if self.training else 0.0)
        return self.proj(y.transpose(1, 2).flatten(2))  # (B, n, D)

    def weights(self, x: Tensor, encoder: EncoderInputs, query: int) -> Tensor:
        """Return the weights (B, heads, L) with which token `query` attends to the encoder states in `forward`."""
        q = self._queries(x, encoder.rotary)
        k, _ = encoder.keys_values or self._keys_values(encoder)
        return weights_of_one(q, k, encoder.mask, False, query)

    def _queries(self, x: Tensor, rotary: Rotary | None) -> Tensor:
        q = self.q_norm(self.q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2))
        return q if rotary is None else rotate(q, rotary.query)

    def _keys_values(self, encoder: EncoderInputs) -> tuple[Tensor, Tensor]:
        assert encoder.states is not None
        return self.keys_values(encoder.states, None if encoder.rotary is None else encoder.rotary.key)


def _head_norm(head_width: int, eps: float | None) -> nn.Module:
    return nn.Identity() if eps is None else nn.RMSNorm(head_width, eps=eps)
