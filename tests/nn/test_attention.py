"""Attention: every code path gives the same result as the definition."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from imgtf.nn.attention import AttentionInputs, CrossAttention, EncoderInputs, LayerCache, SelfAttention
from imgtf.nn.recording import recorded
from imgtf.nn.rotary import Rotary, grid_positions, rotary_table
from imgtf.nn.scores import attend, attend_one, weights_of_one


def reference(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None = None) -> Tensor:
    """Attention by its definition, with the keys of each group copied."""
    k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], 1) for t in (k, v))
    scores = q @ k.mT / q.shape[-1] ** 0.5
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -torch.inf)
    return scores.softmax(-1) @ v


def tensors(queries: int, keys: int, key_heads: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    return (torch.randn(3, 6, queries, 8), *(torch.randn(3, key_heads, keys, 8) for _ in range(2)))  # type: ignore


@pytest.mark.parametrize("key_heads", [6, 2, 1])
@pytest.mark.parametrize(("queries", "keys"), [(7, 7), (1, 9), (4, 9)])
def test_attention_with_a_mask_equals_its_definition(key_heads: int, queries: int, keys: int) -> None:
    q, k, v = tensors(queries, keys, key_heads)
    mask = torch.rand(3, 1, queries, keys) < 0.6
    mask[..., 0] = True
    torch.testing.assert_close(attend(q, k, v, mask, False, 0.0), reference(q, k, v, mask))
    torch.testing.assert_close(attend(q, k, v, None, False, 0.0), reference(q, k, v))


@pytest.mark.parametrize("key_heads", [6, 2])
def test_causal_attention_equals_its_definition(key_heads: int) -> None:
    q, k, v = tensors(7, 7, key_heads)
    allowed = torch.ones(7, 7, dtype=torch.bool).tril()
    torch.testing.assert_close(attend(q, k, v, None, True, 0.0), reference(q, k, v, allowed))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_short_attention_in_bf16_equals_float32(causal: bool, masked: bool) -> None:
    q, k, v = tensors(20, 20)
    mask = torch.ones(3, 1, 20, 20, dtype=torch.bool).tril() if masked else None
    causal = causal and not masked
    expected = attend(q, k, v, mask, causal, 0.0)
    short = attend(q.bfloat16(), k.bfloat16(), v.bfloat16(), mask, causal, 0.0)
    assert short.dtype == torch.bfloat16
    torch.testing.assert_close(short.float(), expected, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("key_heads", [6, 2])
def test_one_query_over_unfilled_positions_equals_attention_to_the_filled_ones(key_heads: int) -> None:
    q, k, v = tensors(1, 20, key_heads)
    bias = torch.zeros(20)
    bias[13:] = -torch.inf
    expected = attend(q, k[:, :, :13], v[:, :, :13], None, False, 0.0)
    torch.testing.assert_close(attend_one(q, k, v, bias), expected)
    torch.testing.assert_close(attend_one(q, k, v, bias.expand(3, 1, 1, -1)), expected)


@pytest.mark.parametrize("key_heads", [None, 2])
@pytest.mark.parametrize("qk_norm_eps", [None, 1e-5])
@torch.no_grad()
def test_self_attention_with_a_cache_equals_the_whole_sequence(
    key_heads: int | None, qk_norm_eps: float | None
) -> None:
    """First four tokens at once, then single tokens whose position is a number or a tensor."""
    torch.manual_seed(0)
    layer = SelfAttention(32, 4, key_heads=key_heads, qk_norm_eps=qk_norm_eps)
    table, x = rotary_table(grid_positions((2, 3)), 8, 100.0), torch.randn(2, 6, 32)
    whole = layer(x, AttentionInputs(Rotary(table, table), causal=True))
    cache = LayerCache(torch.zeros(2, key_heads or 4, 8, 8), torch.zeros(2, key_heads or 4, 8, 8), 0)

    def step(start: int, end: int, cache: LayerCache) -> Tensor:
        part = table[start:end]
        return layer(x[:, start:end], AttentionInputs(Rotary(part, part), causal=True, cache=cache))

    bias = torch.zeros(8)
    bias[6:] = -torch.inf
    parts = [
        step(0, 4, cache), step(4, 5, replace(cache, position=4)),
        step(5, 6, replace(cache, position=torch.tensor([5]), bias=bias)),
    ]  # fmt: skip
    torch.testing.assert_close(torch.cat(parts, 1), whole)


@torch.no_grad()
def test_cross_attention_to_cached_keys_equals_encoder_states() -> None:
    torch.manual_seed(0)
    layer = CrossAttention(32, 4, key_heads=2)
    x, states = torch.randn(2, 6, 32), torch.randn(2, 5, 32)
    rotary = Rotary(rotary_table(torch.rand(6, 2), 8, 100.0), rotary_table(torch.rand(5, 2), 8, 100.0))
    mask = torch.tensor([True, True, False, True, False])[None, None, None].expand(2, 1, 1, 5)
    direct = EncoderInputs(states, mask=mask, rotary=rotary)
    cached = EncoderInputs(keys_values=layer.keys_values(states, rotary.key), mask=mask, rotary=rotary)
    expected = layer(x, direct)
    assert torch.equal(layer(x, cached), expected)
    changed = states.clone()
    changed[:, 2] += 1
    assert torch.equal(layer(x, replace(direct, states=changed)), expected)
    torch.testing.assert_close(
        layer(x, replace(cached, mask=torch.zeros(mask.shape).masked_fill(~mask, -torch.inf))), expected
    )


@pytest.mark.parametrize("key_heads", [6, 2])
def test_weights_of_one_query_give_its_attention(key_heads: int) -> None:
    q, k, v = tensors(7, 7, key_heads)
    mask = torch.rand(3, 1, 7, 7) < 0.6
    mask[..., 0] = True
    full_v = v.repeat_interleave(6 // key_heads, 1)
    for given, causal in ((mask, False), (None, True), (None, False), (mask[:, :, :1], False)):
        full = None if given is None else given.expand(3, 1, 7, 7)
        expected = attend(q, k, v, full, causal, 0.0)
        for query in (0, 4, 6):
            weights = weights_of_one(q, k, given, causal, query)
            torch.testing.assert_close(weights.sum(-1), torch.ones(3, 6))
            torch.testing.assert_close((weights[:, :, None] @ full_v)[:, :, 0], expected[:, :, query])


def test_weights_with_an_added_mask_equal_those_with_a_bool_mask() -> None:
    q, k, _ = tensors(5, 5)
    mask = torch.ones(3, 1, 5, 5, dtype=torch.bool).tril()
    added = torch.zeros(3, 1, 5, 5).masked_fill(~mask, -torch.inf)
    expected = weights_of_one(q, k, mask, False, 2)
    torch.testing.assert_close(weights_of_one(q, k, added, False, 2), expected)
    assert not expected[..., 3:].any()


def test_weights_of_a_layer_give_its_output() -> None:
    torch.manual_seed(0)
    table = rotary_table(grid_positions((2, 3)), 8, 100.0)
    inputs = AttentionInputs(Rotary(table, table), causal=True)
    layer, x = SelfAttention(32, 4, key_heads=2, qk_norm_eps=1e-5), torch.randn(1, 6, 32)
    v = layer.qkv(x).unflatten(-1, (8, 8)).transpose(1, 2)[:, 6:].repeat_interleave(2, 1)
    own = (layer.weights(x, inputs, 4)[:, :, None] @ v).flatten(1)
    torch.testing.assert_close(layer.proj(own), layer(x, inputs)[:, 4])


def test_recorded_weights_do_not_change_the_forward_pass_and_leave_no_hooks() -> None:
    torch.manual_seed(0)
    layer, x = SelfAttention(32, 4), torch.randn(1, 6, 32)
    inputs = AttentionInputs(causal=True)
    with recorded([layer], lambda own, x, inputs: own.weights(x, inputs, 3)) as found:
        assert torch.equal(layer(x, inputs), layer(x, inputs))
    assert len(found) == 2
    assert torch.equal(found[0], layer.weights(x, inputs, 3))
    with pytest.raises(ValueError, match="stop"), recorded([layer], lambda *_: found[0]):
        raise ValueError("stop")
    layer(x, inputs)
    assert len(found) == 2
