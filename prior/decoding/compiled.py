"""The functions of a decoding step, compiled: inductor fuses what surrounds the matrix products into a few loops.

A group of blocks is compiled once per number of rows; all groups of the network and all cache capacities share it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...nn.attention import AttentionInputs
from ..config import SamplingConfig
from .filters import draw_codes
from .step import StepFunctions, run_blocks, run_head

GROUP_SIZE = 4
"""Blocks compiled together at most. A call of a compiled function costs 50 to 100 us; larger groups compile longer
(one row: 5, 10, 27 s for 1, 4, 12 blocks) and gain little."""


def compiled_blocks(blocks: Sequence[nn.Module], x: Tensor, inputs: Sequence[AttentionInputs]) -> Tensor:
    """See `StepFunctions.blocks`."""
    _mark_capacity_dynamic(inputs)
    size = max(n for n in range(1, GROUP_SIZE + 1) if len(blocks) % n == 0)
    for start in range(0, len(blocks), size):
        group = slice(start, start + size)
        x = cast(Tensor, _compiled(run_blocks)(blocks[group], x, inputs[group]))
    return x


def compiled_head(norm: nn.Module, head: nn.Module, x: Tensor) -> Tensor:
    """See `StepFunctions.logits`."""
    return cast(Tensor, _compiled(run_head)(norm, head, x))


def compiled_draw(
    logits: Tensor, uniform: Tensor, settings: SamplingConfig, temperature: Tensor | None
) -> Tensor:
    """See `StepFunctions.draw`; compiled once for each settings."""
    return cast(Tensor, _compiled(draw_codes)(logits, uniform, settings, temperature))


COMPILED = StepFunctions(compiled_blocks, compiled_head, compiled_draw)


def _mark_capacity_dynamic(inputs: Sequence[AttentionInputs]) -> None:
    """Let one compiled function serve all capacities of the cache."""
    for own in inputs:
        assert own.cache is not None
        for tensor in (own.cache.keys, own.cache.values):
            torch._dynamo.maybe_mark_dynamic(tensor, 2)
    bias = cast(Tensor, inputs[0].cache.bias)  # type: ignore[union-attr]  # the same in all layers
    torch._dynamo.maybe_mark_dynamic(bias, bias.dim() - 1)


@cache
def _compiled(function: Any) -> Any:
    return torch.compile(function, dynamic=False, options={"size_asserts": False})
