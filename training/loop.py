"""The one training loop. It knows neither stage: `Stage.step` computes, the loop decides when."""

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
from .checkpoint import latest_state, load_state, put_weights, save_state, take_weights
from .config import TrainingConfig
from .ema import EMA
from .interrupt import StopRequest
from .report import LOG_FILE, Report
from .schedule import learning_rate
from .stage import Batch, MonitorAction, Stage


@dataclass(frozen=True)
class TrainingResult:
    """What a finished run reached."""

    steps: int
    best_step: int
    figures: dict[str, float]
    """Held-out figures of the best weights, which are the ones kept."""


class Means:
    """Means of figures since the last log line; a figure may be missing from some steps."""

    def __init__(self, sums: dict[str, Tensor] | None = None, counts: dict[str, int] | None = None) -> None:
        self.counts = counts or {}
        self.sums = {key: (sums or {})[key] for key in self.counts}

    def add(self, figures: dict[str, Tensor]) -> None:
        """The figures of one step. Nothing waits for the device here."""
        for key, value in figures.items():
            self.sums[key] = self.sums.get(key, 0) + value.detach()
            self.counts[key] = self.counts.get(key, 0) + 1

    def figures(self, accelerator: Accelerator) -> dict[str, float]:
        """Over the steps and over all processes."""
        if accelerator.num_processes > 1:
            sums = accelerator.reduce(torch.stack([s.float() for s in self.sums.values()]), "mean").tolist()
        else:
            sums = [float(s) for s in self.sums.values()]
        return {key: s / self.counts[key] for key, s in zip(self.sums, sums, strict=True)}


class Trainer:
    """Trains one stage in one model folder.

    The folder gets `<stage>/` (the best averaged weights) and `training/<stage>/` (log, pictures, state).
    """

    def __init__(self, stage: Stage, config: TrainingConfig, folder: Path, accelerator: Accelerator) -> None:
        self.stage, self.config, self.accelerator = stage, config, accelerator
        self.weights_folder = folder / stage.name
        self.folder = folder / "training" / stage.name
        stage.prepare(accelerator, config)
        self.ema = EMA(stage.model, config.ema_decay) if config.ema_decay > 0 else None
        self.done = 0
        self.best: dict[str, Any] = {"step": 0, "figures": {}}
        self.means = Means()
        self.good: dict[str, Tensor] = {}

    def restore(self) -> None:
        """Goes back to the last saved state; nothing is written.

        Raises:
            CheckpointError: when there is none, it does not belong to this stage, or its run is over.
        """
        state = latest_state(self.folder / "state")
        if state is None:
            raise CheckpointError(f"{self.folder}: no saved state to resume; start without --resume")
        progress, sums, self.good = load_state(state, self.stage, self.ema, self.accelerator)
        self.done, self.best = progress["step"], progress["best"]
        self.means = Means(sums, progress["means"])
        if self.done >= self.config.steps:
            raise CheckpointError(
                f"{state}: the run of {self.config.steps} steps is over; give it more --steps"
            )

    def run(self) -> TrainingResult:
        """Trains to the last step.

        Raises:
            Interrupted: after Ctrl-C or SIGTERM, once the state is saved.
            CheckpointError: when saving fails.
        """
        with StopRequest() as stop:
            report = Report(
                self.stage.name,
                self.folder / LOG_FILE,
                start=self.done,
                steps=self.config.steps,
                batch_size=self.config.batch_size,
                active=self.accelerator.is_main_process,
                trackers=self.accelerator.trackers,
            )
            try:
                self._steps(report, stop)
            finally:
                report.close()
                # Not Accelerate's `end_training`, which ends the process group as well.
                for tracker in self.accelerator.trackers:
                    tracker.finish()
        return TrainingResult(self.done, self.best["step"], self.best["figures"])

    def _steps(self, report: Report, stop: StopRequest) -> None:
        config = self.config
        batches = self.stage.train_batches(self.done)
        while self.done < config.steps:
            figures = self._update(batches)
            self.means.add(figures)
            report.advance()

            if self._due(config.log_every):
                self._log(report)
            if self._due(config.eval_every):
                self._evaluate(report)
            if self._due(config.preview_every):
                self._preview()

            stopping = self._agreed(stop.requested) and self.done < config.steps
            if stopping or self._due(config.save_every):
                self._save()
            if stopping:
                raise Interrupted(
                    f"stopped at step {self.done} of {config.steps}, state saved in {self.folder}"
                )

    def _update(self, batches: Iterator[Batch]) -> dict[str, Tensor]:
        """One update of the weights, from one or more micro-batches."""
        rate = learning_rate(self.done, self.config)
        for optimizer in self.stage.optimizers().values():
            for group in optimizer.param_groups:
                group["lr"] = rate * group.get("lr_ratio", 1.0)
        self.stage.completed_steps = self.done
        self.stage.network.train()
        networks = [optimized.network for optimized in self.stage.optimized_networks()]
        for _ in range(self.config.gradient_accumulation_steps):
            with self.accelerator.accumulate(*networks):
                figures = self.stage.step(next(batches))
        if self.ema:
            self.ema.update(self.done)
        self.done += 1
        return figures

    def _due(self, every: int) -> bool:
        return self.done % every == 0 or self.done == self.config.steps

    def _log(self, report: Report) -> None:
        """The figures since the last line, and what they call for."""
        figures = self.means.figures(self.accelerator) | self.stage.window()
        self.means = Means()
        self.stage.completed_steps = self.done
        verdict = self.stage.diagnose(figures)
        if not math.isfinite(figures["loss"]) and (verdict is None or verdict.action != "roll back"):
            raise ImgtfError(
                f"the loss is no longer a number at step {self.done}: lower --lr or set --grad-clip; "
                f"the last saved state and the best weights are untouched"
            )
        report.train(self.done, figures | {"lr": learning_rate(self.done - 1, self.config)})
        if verdict:
            report.verdict(self.done, verdict.action, verdict.reason)
            self._act(verdict)

    def _act(self, verdict: MonitorAction) -> None:
        if verdict.action == "keep":
            self.good = take_weights(self.stage, self.ema)
        elif verdict.action == "roll back":
            put_weights(self.good, self.stage, self.ema)

    def _averaged(self) -> AbstractContextManager[None]:
        return self.ema.applied() if self.ema else nullcontext()

    @torch.no_grad()
    def _evaluate(self, report: Report) -> None:
        if self.accelerator.is_main_process:
            self.stage.model.eval()
            with self._averaged():
                figures = self.stage.evaluate()
                best = self.stage.improves(figures, self._kept())
                if best:
                    self.best = {"step": self.done, "figures": figures}
                    self._keep()
            report.evaluation(self.done, figures, best)
        self.accelerator.wait_for_everyone()

    def _kept(self) -> dict[str, float]:
        """The figures to compare with, none where those of the kept weights do not compare."""
        if self.best["step"] < self.stage.scores_count_from() <= self.done:
            return {}
        return self.best["figures"]

    def _keep(self) -> None:
        try:
            self.stage.model.save_pretrained(self.weights_folder)
        except Exception as error:
            raise CheckpointError(f"{self.weights_folder}: cannot save the weights ({error})") from error

    @torch.no_grad()
    def _preview(self) -> None:
        if self.accelerator.is_main_process:
            self.stage.model.eval()
            path = self.folder / "previews" / f"step-{self.done:08d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._averaged():
                self.stage.preview(path)
        self.accelerator.wait_for_everyone()

    def _agreed(self, requested: bool) -> bool:
        """Whether any process was asked to stop; asked of the others only now and then, for it costs a sync."""
        if self.accelerator.num_processes == 1:
            return requested
        if not self._due(self.config.log_every):
            return False
        flag = torch.tensor([float(requested)], device=self.accelerator.device)
        return bool(self.accelerator.gather(flag).max() > 0)

    def _save(self) -> None:
        progress = {"step": self.done, "best": self.best, "means": self.means.counts}
        save_state(
            self.folder / "state",
            self.stage,
            self.ema,
            self.accelerator,
            progress,
            self.means.sums,
            self.good,
        )
