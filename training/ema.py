"""Moving average of the weights: what is evaluated, shown and saved."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class EMA:
    """Averages the parameters; buffers (the codebook has its own averages) stay the module's."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.model = model
        self.average = {name: p.detach().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After update number `step` (from 0). Early on the average is shorter, so that it leaves the start."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averages = list(self.average.values())
        torch._foreach_lerp_(averages, [p.detach() for p in self.model.parameters()], 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the module computes with the averaged weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state(self) -> dict[str, Tensor]:
        """The averages by parameter name."""
        return self.average

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self.model.named_parameters():
            kept = parameter.detach().clone()
            parameter.copy_(self.average[name])
            self.average[name].copy_(kept)
