"""The step of one slot compiled: what lies around the products becomes a few loops.

A few blocks compiled together serve all layers and every length of the cache; each number of rows is compiled once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...runtime.compiler import check_compiler
from ..config import SamplingConfig
from ..layers import Context
from .filters import draw

GROUP = 4
"""At most so many blocks are compiled together. Calling one compiled function costs 50 to 100 us beside its work; more
blocks in one take longer to compile (one row: 1, 4, 12 blocks 5, 10, 27 s) and then save little."""


@contextmanager
def fused(prior: Any, wanted: bool) -> Iterator[None]:
    """In the block the prior's steps of one slot run compiled, where that is wanted.

    Raises:
        ConfigError: without a C++ compiler (CPU) or Triton (GPU).
    """
    if wanted:
        check_compiler(prior.device)
    before, prior.fused = prior.fused, wanted
    try:
        yield
    finally:
        prior.fused = before


def fused_blocks(blocks: Sequence[nn.Module], x: Tensor, contexts: Sequence[Context]) -> Tensor:
    """All blocks, (B, 1, D) -> (B, 1, D); the contexts hold nothing of the step but tensors."""
    bias = contexts[0].bias  # the same in all
    assert bias is not None
    torch._dynamo.maybe_mark_dynamic(bias, bias.dim() - 1)
    for context in contexts:
        assert context.past is not None
        for tensor in context.past:
            torch._dynamo.maybe_mark_dynamic(tensor, 2)
    size = max(n for n in range(1, GROUP + 1) if len(blocks) % n == 0)
    for first in range(0, len(blocks), size):
        group = slice(first, first + size)
        x = cast(Tensor, _compiled(_group)(blocks[group], x, contexts[group]))
    return x


def fused_head(norm: nn.Module, head: nn.Module, x: Tensor) -> Tensor:
    """Outputs (B, 1, D) to logits (B, 1, V), float32."""
    return cast(Tensor, _compiled(_head)(norm, head, x))


def fused_draw(
    logits: Tensor, uniform: Tensor, settings: SamplingConfig, temperature: Tensor | None
) -> Tensor:
    """As `draw`; the settings are compiled in, the temperature is not."""
    return cast(Tensor, _compiled(draw)(logits, uniform, settings, temperature))


def _group(blocks: Sequence[nn.Module], x: Tensor, contexts: Sequence[Context]) -> Tensor:
    for block, context in zip(blocks, contexts, strict=True):
        x = block(x, context)
    return x


def _head(norm: nn.Module, head: nn.Module, x: Tensor) -> Tensor:
    return cast(Tensor, head(norm(x)).float())


@cache
def _compiled(function: Any) -> Any:
    return torch.compile(function, dynamic=False, options={"size_asserts": False})
