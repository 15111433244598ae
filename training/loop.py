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
from .checkpoint import latest_state, load_state, save_state
from .config import TrainingConfig
from .ema import EMA
from .interrupt import StopRequest
from .report import Report
from .schedule import learning_rate
from .stage import Batch, Stage


@dataclass(frozen=True)
class Outcome:
    """What a finished run reached."""

    steps: int
    best_step: int
    figures: dict[str, float]
    """Held-out figures of the best weights, which are the ones kept."""


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

    def run(self, resume: bool = False) -> Outcome:
        """Trains to the last step.

        Raises:
            Interrupted: after Ctrl-C or SIGTERM, once the state is saved.
            CheckpointError: when there is nothing to resume, or saving fails.
        """
        if resume:
            self._restore()
        with StopRequest() as stop:
            report = Report(
                self.stage.name,
                self.folder / "log.jsonl",
                start=self.done,
                steps=self.config.steps,
                batch_size=self.config.batch_size,
                active=self.accelerator.is_main_process,
            )
            try:
                self._steps(report, stop)
            finally:
                report.close()
        return Outcome(self.done, self.best["step"], self.best["figures"])

    def _steps(self, report: Report, stop: StopRequest) -> None:
        config = self.config
        batches = self.stage.train_batches(self.done)
        sums: dict[str, Tensor] = {}
        summed = 0
        while self.done < config.steps:
            figures = self._update(batches)
            sums = {key: sums.get(key, 0) + value.detach() for key, value in figures.items()}
            summed += 1
            report.advance()

            if self._due(config.log_every):
                report.train(self.done, self._averages(sums, summed))
                sums, summed = {}, 0
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
                group["lr"] = rate
        self.stage.network.train()
        for _ in range(self.config.accumulate):
            with self.accelerator.accumulate(self.stage.network):
                figures = self.stage.step(next(batches))
        if self.ema:
            self.ema.update(self.done)
        self.done += 1
        return figures

    def _due(self, every: int) -> bool:
        return self.done % every == 0 or self.done == self.config.steps

    def _averages(self, sums: dict[str, Tensor], steps: int) -> dict[str, float]:
        figures = {key: float(value) / steps for key, value in sums.items()}
        if not math.isfinite(figures["loss"]):
            raise ImgtfError(
                f"the loss is no longer a number at step {self.done}: lower --lr or set --clip; "
                f"the last saved state and the best weights are untouched"
            )
        return figures | self.stage.window() | {"lr": learning_rate(self.done - 1, self.config)}

    def _averaged(self) -> AbstractContextManager[None]:
        return self.ema.applied() if self.ema else nullcontext()

    @torch.no_grad()
    def _evaluate(self, report: Report) -> None:
        if self.accelerator.is_main_process:
            self.stage.model.eval()
            with self._averaged():
                figures = self.stage.evaluate()
                score = figures.get(self.stage.score)
                best = score is None or score < self.best["figures"].get(self.stage.score, math.inf)
                if best:
                    self.best = {"step": self.done, "figures": figures}
                    self._keep()
            report.evaluation(self.done, figures, best)
        self.accelerator.wait_for_everyone()

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
        progress = {"step": self.done, "best": self.best}
        save_state(self.folder / "state", self.stage, self.ema, self.accelerator, progress)

    def _restore(self) -> None:
        state = latest_state(self.folder / "state")
        if state is None:
            raise CheckpointError(f"{self.folder}: no saved state to resume; start without --resume")
        progress = load_state(state, self.stage, self.ema, self.accelerator)
        self.done, self.best = progress["step"], progress["best"]
        if self.done >= self.config.steps:
            raise CheckpointError(
                f"{state}: the run of {self.config.steps} steps is over; give it more --steps"
            )
