"""The step of one slot compiled: what lies around the products becomes a few loops.

One compiled block serves all layers and every length of the cache; each number of rows is compiled once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..training.compiled import check_compiler
from .cache import KVCache
from .choice import draw
from .config import SamplingConfig
from .layers import Block, Context


@contextmanager
def fused(prior: Any, wanted: bool) -> Iterator[None]:
    """In the block the prior's steps of one slot run compiled, where that is wanted.

    Raises:
        ConfigError: on another device than a CPU, or without a C++ compiler.
    """
    if wanted:
        if prior.device.type != "cpu":
            raise ConfigError("compile: sampling is compiled on a CPU only. Go without --compile")
        check_compiler(prior.device)
    before, prior.fused = prior.fused, wanted
    try:
        yield
    finally:
        prior.fused = before


def fused_blocks(blocks: Iterable[nn.Module], x: Tensor, context: Context, cache: KVCache) -> Tensor:
    """Input (B, 1, D) of one slot to the output of the last block. Blocks without cross-attention only."""
    slot = torch.tensor([context.slot])
    context = replace(context, cache=None, slot=0)  # numbers and lists would be compiled in
    assert context.unfilled is not None
    torch._dynamo.maybe_mark_dynamic(context.unfilled, 0)
    for layer, block in enumerate(blocks):
        keys, values = cache.layer(layer)
        for tensor in (keys, values):
            torch._dynamo.maybe_mark_dynamic(tensor, 2)
        x = _compiled(_block)(block, x, context, keys, values, slot)
    return x


def fused_head(norm: nn.Module, head: nn.Module, x: Tensor) -> Tensor:
    """Outputs (B, 1, D) to logits (B, 1, V), float32."""
    return _compiled(_head)(norm, head, x)


def fused_draw(logits: Tensor, uniform: Tensor, settings: SamplingConfig, temperature: float) -> Tensor:
    """As `draw`. Settings and temperature are compiled in: for those that stay the same from step to step."""
    return cast(Tensor, _compiled(draw)(logits, uniform, settings, temperature))


def _block(block: Block, x: Tensor, context: Context, keys: Tensor, values: Tensor, slot: Tensor) -> Tensor:
    x = x + block.attention.one_slot(block.attention_norm(x), context, keys, values, slot)
    return x + block.feed_forward(block.feed_forward_norm(x))


def _head(norm: nn.Module, head: nn.Module, x: Tensor) -> Tensor:
    return cast(Tensor, head(norm(x)).float())


@cache
def _compiled(function: Any) -> Any:
    return torch.compile(function, dynamic=False)
