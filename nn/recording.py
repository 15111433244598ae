"""Recording of attention weights during a forward pass that runs as always."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

Weights = Callable[..., Tensor]
"""Takes an attention layer and the arguments of its forward pass, and returns the weights of one query."""


@contextmanager
def recorded(layers: Iterable[nn.Module], weights: Weights) -> Iterator[list[Tensor]]:
    """Yield a list that receives `weights(layer, *arguments)` each time a layer runs within the block, in this order.

    The layers compute what they always do, with the fused kernel; only the weights of one query are computed besides.
    At the end of the block, also after an error, the layers are as they were before.
    """
    found: list[Tensor] = []

    def record(layer: nn.Module, arguments: tuple[Any, ...]) -> None:
        found.append(weights(layer, *arguments))

    hooks = [layer.register_forward_pre_hook(record) for layer in layers]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
