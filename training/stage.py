"""What the loop asks of a stage: the loop knows neither images nor codes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..pretrained import PretrainedModel
from ..runtime.compiler import compiled
from .config import TrainingConfig

Batch = dict[str, Any]


@dataclass(frozen=True)
class OptimizedNetwork:
    """A network as Accelerate wrapped it, with the optimizer that moves it."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    grad_clip: float
    """Largest gradient norm; 0 leaves gradients alone."""


@dataclass(frozen=True)
class MonitorAction:
    """What the loop is to do after a log line, and why."""

    action: Literal["keep", "roll back", "ease"]
    """`keep` the weights as good ones; go back to the good ones; or nothing, the stage has helped itself."""
    reason: str


class Stage(ABC):
    """A model with its losses, data and figures. One class a stage of training."""

    name: ClassVar[str]
    """Also the folder of the model that it trains."""
    score: ClassVar[str]
    """The figure of `evaluate` by which the best weights are chosen; lower is better."""

    model: PretrainedModel
    completed_steps: int = 0
    """Updates so far; the loop keeps it."""

    def prepare(self, accelerator: Accelerator, config: TrainingConfig) -> None:
        """Puts the network and its optimizers in Accelerate's hands."""
        self.accelerator = accelerator
        optimizer = adamw(self.model, config)
        network = WrappedModel(self.model)
        if config.compile:
            network.compute = compiled(self.model, self.eager())
        self.network, self.optimizer = accelerator.prepare(network, optimizer)
        self.optimized = OptimizedNetwork(self.network, self.optimizer, config.grad_clip)

    def eager(self) -> list[nn.Module]:
        """Parts of the network that compilation leaves alone."""
        return []

    def optimized_networks(self) -> list[OptimizedNetwork]:
        """Everything that is trained."""
        return [self.optimized]

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """By the name under which their state is saved. A group's `lr_ratio` is its part of the learning rate."""
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

    def diagnose(self, figures: dict[str, float]) -> MonitorAction | None:
        """What the figures of a log line call for; the same on every process, as the figures are."""
        return None

    def improves(self, figures: dict[str, float], kept: dict[str, float]) -> bool:
        """Whether weights with these held-out figures are to be kept in place of those with the figures `kept`."""
        score = figures.get(self.score)
        return score is None or score < kept.get(self.score, math.inf)

    def scores_count_from(self) -> int:
        """Step from which held-out scores compare with one another; better ones before it do not count."""
        return 0

    def state(self) -> dict[str, Any]:
        """JSON values that belong to the state, the same on all processes."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """Tensors of this process that belong to the state, besides weights and optimizers."""
        return {}

    def load_state(self, state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """The reverse of `state` and `tensors`."""
        del state, tensors  # a stage that has nothing to remember

    def update(self, loss: Tensor) -> Tensor:
        """Backward, clip, optimizer step; returns the gradient norm before clipping."""
        self.accelerator.backward(loss)
        return self.move(self.optimized)[0]

    def move(self, *optimized_networks: OptimizedNetwork) -> list[Tensor]:
        """Once the batch is whole: clip, optimizer step. Returns the gradient norms before clipping, else zeros.

        The gradients of all are unscaled before any step is taken: fp16's scale changes once an update.
        """
        if not self.accelerator.sync_gradients:
            return [torch.zeros((), device=self.accelerator.device) for _ in optimized_networks]
        scaler = self.accelerator.scaler
        norms = []
        for optimized in optimized_networks:
            if scaler is not None:
                scaler.unscale_(_bare(optimized.optimizer))
            limit = optimized.clip if optimized.clip > 0 else float("inf")
            norms.append(nn.utils.clip_grad_norm_(optimized.network.parameters(), limit))
        for optimized in optimized_networks:
            if scaler is None:
                optimized.optimizer.step()
            else:
                scaler.step(_bare(optimized.optimizer))
            optimized.optimizer.zero_grad()
        if scaler is not None:
            scaler.update()
        return norms


def _bare(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Without Accelerate's wrapping, whose `step` would update the scale after each optimizer."""
    return getattr(optimizer, "optimizer", optimizer)


class WrappedModel(nn.Module):
    """The model as Accelerate wraps it. The wrapping (autocast, DDP, compilation) stays off the model itself, which
    is evaluated and saved in full precision, under its own names."""

    compute: Callable[..., Any] | None = None
    """Stands in for calling the model, where set."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return (self.compute or self.model)(*inputs, **named)


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
