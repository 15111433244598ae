"""The training loop of both stages: `Stage.step` computes, the loop decides when to log, evaluate and save."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from ..errors import CheckpointError, ImgtfError, Interrupted
from .checkpoint import Progress, latest_state, load_state, restore_snapshot, save_state, take_snapshot
from .config import TrainingConfig
from .ema import EMA
from .interrupt import StopRequest
from .report import LOG_FILE, Report
from .schedule import learning_rate
from .stage import Batch, MonitorAction, Stage


@dataclass(frozen=True)
class TrainingResult:
    """Result of a finished run."""

    steps: int
    best_step: int
    metrics: dict[str, float]
    """Held-out metrics of the best weights, which are the saved ones."""


class RunningMeans:
    """Means of metrics since the last log line. A step may lack some of the metrics."""

    def __init__(self, sums: dict[str, Tensor] | None = None, counts: dict[str, int] | None = None) -> None:
        self.counts = counts or {}
        self.sums = {key: (sums or {})[key] for key in self.counts}

    def add(self, metrics: dict[str, Tensor]) -> None:
        """Add the metrics of one step, without synchronising with the device."""
        for key, value in metrics.items():
            self.sums[key] = self.sums.get(key, 0) + value.detach()
            self.counts[key] = self.counts.get(key, 0) + 1

    def means(self, accelerator: Accelerator) -> dict[str, float]:
        """Return the means over all steps and processes."""
        if accelerator.num_processes > 1:
            sums = accelerator.reduce(torch.stack([s.float() for s in self.sums.values()]), "mean").tolist()
        else:
            sums = [float(s) for s in self.sums.values()]
        return {key: s / self.counts[key] for key, s in zip(self.sums, sums, strict=True)}


class Trainer:
    """Trains one stage in a model folder.

    Writes `<stage>/` (the best averaged weights) and `training/<stage>/` (log, previews, state).
    """

    def __init__(self, stage: Stage, config: TrainingConfig, folder: Path, accelerator: Accelerator) -> None:
        self.stage, self.config, self.accelerator = stage, config, accelerator
        self.weights_folder = folder / stage.name
        self.folder = folder / "training" / stage.name
        stage.prepare(accelerator, config)
        self.ema = EMA(stage.model, config.ema_decay) if config.ema_decay > 0 else None
        self.completed_steps = 0
        self.best: dict[str, Any] = {"step": 0, "metrics": {}}
        self.running = RunningMeans()
        self.snapshot: dict[str, Tensor] = {}
        """Weights for a rollback; {} without any."""

    def restore(self) -> None:
        """Load the last saved state. Nothing is written.

        Raises:
            CheckpointError: no state, a state of another stage, or its run is complete.
        """
        state = latest_state(self.folder / "state")
        if state is None:
            raise CheckpointError(f"{self.folder}: no saved state to resume; start without --resume")
        progress = load_state(state, self.stage, self.ema, self.accelerator)
        self.completed_steps, self.best, self.snapshot = progress.step, progress.best, progress.snapshot
        self.running = RunningMeans(progress.sums, progress.counts)
        if self.completed_steps >= self.config.steps:
            raise CheckpointError(
                f"{state}: {self.completed_steps} of {self.config.steps} steps are done; continue it with more --steps"
            )

    def run(self) -> TrainingResult:
        """Train until the last step.

        Raises:
            Interrupted: after Ctrl-C or SIGTERM, once the state is saved.
            CheckpointError: saving failed.
        """
        with StopRequest() as stop:
            report = Report(
                self.stage.name,
                self.folder / LOG_FILE,
                start=self.completed_steps,
                steps=self.config.steps,
                batch_size=self.config.batch_size,
                active=self.accelerator.is_main_process,
                trackers=self.accelerator.trackers,
            )
            try:
                self._train(report, stop)
            finally:
                report.close()
                # Accelerate's `end_training` would also end the process group.
                for tracker in self.accelerator.trackers:
                    tracker.finish()
        return TrainingResult(self.completed_steps, self.best["step"], self.best["metrics"])

    def _train(self, report: Report, stop: StopRequest) -> None:
        config = self.config
        batches = self.stage.train_batches(self.completed_steps)
        while self.completed_steps < config.steps:
            self.running.add(self._update(batches))
            report.advance()

            if self._due(config.log_every):
                self._log(report)
            if self._due(config.eval_every):
                self._evaluate(report)
            if self._due(config.preview_every):
                self._preview()

            stopping = self._any_process(stop.requested) and self.completed_steps < config.steps
            if stopping or self._due(config.save_every):
                self._save_state()
            if stopping:
                raise Interrupted(
                    f"stopped at step {self.completed_steps} of {config.steps}, state saved in {self.folder}"
                )

    def _update(self, batches: Iterator[Batch]) -> dict[str, Tensor]:
        """Update the weights once, from one or more micro-batches."""
        rate = learning_rate(self.completed_steps, self.config)
        for optimizer in self.stage.optimizers().values():
            for group in optimizer.param_groups:
                group["lr"] = rate * group.get("lr_ratio", 1.0)
        self.stage.completed_steps = self.completed_steps
        self.stage.network.train()
        networks = [optimized.network for optimized in self.stage.optimized_networks()]
        for _ in range(self.config.gradient_accumulation_steps):
            with self.accelerator.accumulate(*networks):
                metrics = self.stage.step(next(batches))
        if self.ema:
            self.ema.update(self.completed_steps)
        self.completed_steps += 1
        return metrics

    def _due(self, every: int) -> bool:
        return self.completed_steps % every == 0 or self.completed_steps == self.config.steps

    def _log(self, report: Report) -> None:
        """Log the metrics since the last line, and do what the stage's monitor asks for."""
        metrics = self.running.means(self.accelerator) | self.stage.window_metrics()
        self.running = RunningMeans()
        step = self.stage.completed_steps = self.completed_steps
        action = self.stage.monitor_action(metrics)
        if not math.isfinite(metrics["loss"]) and (action is None or action.action != "roll_back"):
            raise ImgtfError(
                f"the loss is not finite at step {step}: lower --lr or --grad-clip; "
                f"the last saved state and the best weights are unchanged"
            )
        report.train(step, metrics | {"lr": learning_rate(step - 1, self.config)})
        if action:
            report.monitor(step, action)
            self._apply(action)

    def _apply(self, action: MonitorAction) -> None:
        if action.action == "snapshot":
            self.snapshot = take_snapshot(self.stage, self.ema)
        elif action.action == "roll_back":
            restore_snapshot(self.snapshot, self.stage, self.ema)

    def _averaged(self) -> AbstractContextManager[None]:
        return self.ema.applied() if self.ema else nullcontext()

    @torch.no_grad()
    def _evaluate(self, report: Report) -> None:
        """Evaluate the averaged weights, and save them if they are the best so far."""
        self.stage.model.eval()
        with self._averaged():
            metrics = self.stage.evaluate()  # the same in all processes
            is_best = self.stage.is_better(metrics, self._best_metrics())
            if is_best:
                self.best = {"step": self.completed_steps, "metrics": metrics}
            if is_best and self.accelerator.is_main_process:
                self._save_weights()
        report.evaluation(self.completed_steps, metrics, is_best)
        self.accelerator.wait_for_everyone()

    def _best_metrics(self) -> dict[str, float]:
        """The metrics to compare with; {} if those of the saved weights cannot be compared any more."""
        if self.best["step"] < self.stage.comparable_from() <= self.completed_steps:
            return {}
        return self.best["metrics"]

    def _save_weights(self) -> None:
        try:
            self.stage.model.save_pretrained(self.weights_folder)
        except Exception as error:
            raise CheckpointError(f"{self.weights_folder}: cannot save the weights ({error})") from error

    @torch.no_grad()
    def _preview(self) -> None:
        if self.accelerator.is_main_process:
            self.stage.model.eval()
            path = self.folder / "previews" / f"step-{self.completed_steps:08d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._averaged():
                self.stage.preview(path)
        self.accelerator.wait_for_everyone()

    def _any_process(self, requested: bool) -> bool:
        """Whether any process was asked to stop. Asks the others at log lines only, because that synchronises."""
        if self.accelerator.num_processes == 1:
            return requested
        if not self._due(self.config.log_every):
            return False
        flag = torch.tensor([float(requested)], device=self.accelerator.device)
        return bool(self.accelerator.gather(flag).max() > 0)

    def _save_state(self) -> None:
        running = self.running
        progress = Progress(self.completed_steps, self.best, running.counts, running.sums, self.snapshot)
        save_state(self.folder / "state", self.stage, self.ema, self.accelerator, progress)
