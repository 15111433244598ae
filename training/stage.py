"""Interface between the training loop and a stage: the loop knows neither images nor codes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from ..pretrained import PretrainedModel
from ..runtime.batch_random import gather_objects
from ..runtime.compiler import compiled
from .config import TrainingConfig
from .guard import UpdateGuard
from .optimizers import make_optimizers
from .sharding import shard, unsharded

Batch = dict[str, Any]


@dataclass(frozen=True)
class OptimizedNetwork:
    """A network as Accelerate wrapped it, with its optimizers."""

    network: nn.Module
    optimizers: tuple[torch.optim.Optimizer, ...]
    grad_clip: float
    """Largest gradient norm; 0 for no clipping."""


@dataclass(frozen=True)
class MonitorAction:
    """What a monitor asks of the loop after a log line, and why."""

    action: Literal["snapshot", "roll_back", "reduce_weight"]
    """snapshot: copy the weights. roll_back: restore the copy. reduce_weight: only the stage changes a loss weight."""
    reason: str


class Stage(ABC):
    """One stage of training: a model with its losses, data and metrics."""

    name: ClassVar[str]
    """Name of the stage, and of the folder of its run in `training/` of the model folder."""
    metric: str
    """Metric of `evaluate` that selects the best weights; lower is better."""
    keeps_start: ClassVar[bool] = False
    """Whether the weights that the run starts with are the best ones until others are better."""

    model: PretrainedModel
    config: TrainingConfig
    completed_steps: int = 0
    """Updates of the weights so far, set by the loop."""

    @property
    def weights_folder(self) -> str:
        """Name of the folder of the weights in the model folder."""
        return self.name

    def computed(self) -> Callable[..., Any] | None:
        """Return what a call of the wrapped network computes; None for the model itself."""
        return None

    def prepare(self, accelerator: Accelerator, config: TrainingConfig) -> None:
        """Create the optimizers and wrap the networks with Accelerate."""
        self.accelerator = accelerator
        self.guard = UpdateGuard(accelerator, config.skip_spikes)
        network = WrappedModel(self.model)
        network.compute = self.computed()
        if config.compile:
            network.compute = compiled(network.compute or self.model, self.eager())
        if config.shard:
            shard(network, self.sharded_units(), accelerator)
            self.network = network
        else:
            self.network = accelerator.prepare(network)
        own = make_optimizers(self.model, config, bf16=accelerator.mixed_precision == "bf16")
        self.own_optimizers = {name: accelerator.prepare(optimizer) for name, optimizer in own.items()}
        self.optimized = OptimizedNetwork(self.network, tuple(self.own_optimizers.values()), config.grad_clip)

    def eager(self) -> list[nn.Module]:
        """Return the modules that `torch.compile` leaves in eager mode."""
        return []

    def sharded_units(self) -> Iterable[nn.Module]:
        """Return the modules that `--shard` gathers one at a time; the rest is gathered for a whole step."""
        return ()

    def unsharded(self) -> AbstractContextManager[None]:
        """Return a context in which every process holds the whole weights, to evaluate them."""
        return unsharded(self.network) if isinstance(self.network, FSDPModule) else nullcontext()

    def optimized_networks(self) -> list[OptimizedNetwork]:
        """Return every network that is trained."""
        return [self.optimized]

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Return the optimizers by the name of their state file.

        A parameter group's `lr_ratio` multiplies its learning rate.
        """
        return dict(self.own_optimizers)

    def trained_modules(self) -> dict[str, nn.Module]:
        """Return the modules whose raw weights belong to the training state, by name."""
        return {"model": self.model}

    @abstractmethod
    def train_batches(self, start_step: int) -> Iterator[Batch]:
        """Yield micro-batches of this process without end, beginning with the first one of update `start_step`."""

    @abstractmethod
    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Process one micro-batch: forward, backward and, at the end of a batch, an update. Return metrics."""

    @abstractmethod
    def evaluate(self) -> dict[str, float]:
        """Return metrics on the held-out data with the current weights. Must not use the global RNG."""

    @abstractmethod
    def preview(self, path: Path) -> None:
        """Save a PNG that shows what the model can do now. Must not use the global RNG."""

    def window_metrics(self) -> dict[str, float]:
        """Return metrics over all steps since the last call."""
        return {}

    def follow(self, config: TrainingConfig, step: int) -> None:
        """Follow a decision at a step on the number of steps. Nothing up to this step depends on it."""
        del step  # of use to stages with schedules of their own
        self.config = config

    def monitor_action(self, metrics: dict[str, float]) -> MonitorAction | None:
        """Return the action that the metrics of a log line require, the same on every process."""
        return None

    def is_better(self, metrics: dict[str, float], best: dict[str, float]) -> bool:
        """Return whether held-out `metrics` are better than those of the best weights so far."""
        value = metrics.get(self.metric)
        return value is None or value < best.get(self.metric, math.inf)

    def comparable_from(self) -> int:
        """Return the step from which held-out metrics can be compared. Earlier best weights are always replaced."""
        return 0

    def state(self) -> dict[str, Any]:
        """Return the part of the training state that is JSON, the same on all processes."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of this process in the training state, besides weights and optimizers."""
        return {}

    def merged(self, parts: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return those of `tensors` that another number of processes needs from all that saved them."""
        return {}

    def load_state(self, state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Restore the results of `state` and `tensors`."""
        del state, tensors  # most stages have no other state

    def update(self, loss: Tensor) -> dict[str, Tensor]:
        """Backward pass, gradient clipping, optimizer step. Return the `gradient_norm`, as `step_optimizers` does."""
        self.backward(loss)
        return self.step_optimizers(gradient_norm=self.optimized)

    def backward(self, loss: Tensor) -> None:
        """Backward pass of a loss, which the guard of the updates looks at."""
        self.guard.note(loss.detach())
        self.accelerator.backward(loss)

    def step_optimizers(self, **networks: OptimizedNetwork) -> dict[str, Tensor]:
        """Clip gradients and step the optimizers at the end of a batch, unless the guard finds the numbers unfit.

        All gradients are unscaled before the first step, because fp16's scale changes once per update.

        Returns:
            The gradient norm of each network before clipping, by the given names; none within a batch.
        """
        if not self.accelerator.sync_gradients:
            return {}
        scaler = self.accelerator.scaler
        norms = {}
        for name, one in networks.items():
            for optimizer in one.optimizers if scaler is not None else ():
                scaler.unscale_(_unwrapped(optimizer))
            limit = one.grad_clip if one.grad_clip > 0 else math.inf
            norm = nn.utils.clip_grad_norm_(one.network.parameters(), limit)
            norms[name] = norm.full_tensor() if isinstance(norm, DTensor) else norm
        skip = self.guard.judge(list(norms.values()), self.completed_steps, scaled=scaler is not None)
        for optimizer in (optimizer for one in networks.values() for optimizer in one.optimizers):
            _step_unless(skip, _unwrapped(optimizer))
            optimizer.zero_grad()
        if scaler is not None:
            scaler.update()
        return norms


def _step_unless(skip: Tensor, optimizer: Any) -> None:
    """Step the optimizer unless `skip` () is 1.

    The fused AdamW reads it on the device, where `GradScaler.step` puts it too, and changes nothing then: no wait for a
    GPU. Other optimizers need it on the host.
    """
    if not getattr(optimizer, "_step_supports_amp_scaling", False):
        if not skip.item():
            optimizer.step()
        return
    optimizer.found_inf = skip
    optimizer.step()
    del optimizer.found_inf


def _unwrapped(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer without Accelerate's wrapper, whose `step` would update the scale after each optimizer."""
    return getattr(optimizer, "optimizer", optimizer)


class WrappedModel(nn.Module):
    """The module that Accelerate wraps (autocast, DDP, compilation).

    The model inside is evaluated and saved in full precision, under its own parameter names.
    """

    compute: Callable[..., Any] | None = None
    """Called in place of the model, if set."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return (self.compute or self.model)(*inputs, **named)


def mean_over(batches: Iterable[tuple[int, dict[str, Tensor]]]) -> dict[str, float]:
    """Return the mean metrics of batches of different sizes, from the (size, metrics) pairs of all processes."""
    own = [(size, {key: float(value) * size for key, value in metrics.items()}) for size, metrics in batches]
    pairs = [pair for pairs in gather_objects(own) for pair in pairs]
    total = sum(size for size, _ in pairs)
    keys = pairs[0][1] if pairs else ()
    return {key: sum(sums[key] for _, sums in pairs) / total for key in keys}
