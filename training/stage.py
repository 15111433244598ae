"""What the loop asks of a stage: the loop knows neither images nor codes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..pretrained import PretrainedModel
from .config import TrainingConfig

Batch = dict[str, Any]


class Stage(ABC):
    """A model with its losses, data and figures. One class a stage of training."""

    name: ClassVar[str]
    """Also the folder of the model that it trains."""
    score: ClassVar[str]
    """The figure of `evaluate` by which the best weights are chosen; lower is better."""

    model: PretrainedModel

    def prepare(self, accelerator: Accelerator, config: TrainingConfig) -> None:
        """Puts the network and its optimizers in Accelerate's hands."""
        self.accelerator = accelerator
        self.clip = config.clip
        optimizer = adamw(self.model, config)
        self.network, self.optimizer = accelerator.prepare(TrainedNetwork(self.model), optimizer)

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """By the name under which their state is saved."""
        return {"optimizer": self.optimizer}

    def trained(self) -> dict[str, nn.Module]:
        """Every module whose raw weights belong to the state, by name."""
        return {"model": self.model}

    @abstractmethod
    def train_batches(self, start_step: int) -> Iterator[Batch]:
        """Endless micro-batches of this process, from the one that update `start_step` begins with."""

    @abstractmethod
    def step(self, batch: Batch) -> dict[str, Tensor]:
        """One micro-batch: forward, backward and, when the batch is whole, an update. Figures for the log."""

    @abstractmethod
    def evaluate(self) -> dict[str, float]:
        """Figures on the held-out data with the weights as they stand; must leave the global RNG alone."""

    @abstractmethod
    def preview(self, path: Path) -> None:
        """Draws what the model can do now as a PNG; must leave the global RNG alone."""

    def window(self) -> dict[str, float]:
        """Figures over the steps since the last call."""
        return {}

    def update(self, loss: Tensor) -> Tensor:
        """Backward, clip, optimizer step; returns the gradient norm before clipping."""
        self.accelerator.backward(loss)
        norm = loss.new_zeros(())
        if self.accelerator.sync_gradients:
            limit = self.clip if self.clip > 0 else float("inf")
            norm = self.accelerator.clip_grad_norm_(self.network.parameters(), limit)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norm


class TrainedNetwork(nn.Module):
    """The model as Accelerate wraps it. The wrapping (autocast, DDP) stays off the model itself, which is
    evaluated and saved in full precision."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Any) -> Any:
        return self.model(*inputs)


def adamw(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW; only the weights of linear layers and convolutions decay, not biases, gains and embeddings."""
    layers = (nn.Linear, nn.Conv2d)
    weights = {id(m.weight) for m in model.modules() if isinstance(m, layers)}
    parameters = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in parameters if id(p) in weights]
    plain = [p for p in parameters if id(p) not in weights]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), fused=True)


def mean_over(rows: Iterable[tuple[int, dict[str, Tensor]]]) -> dict[str, float]:
    """Means of figures over batches of different sizes, from (size, figures of the batch) pairs."""
    total, sums = 0, dict[str, float]()
    for size, figures in rows:
        total += size
        for key, value in figures.items():
            sums[key] = sums.get(key, 0.0) + float(value) * size
    return {key: value / total for key, value in sums.items()}
