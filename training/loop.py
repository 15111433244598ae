"""The training loop of both stages: `Stage.step` computes, the loop decides when to log, evaluate and save."""

from __future__ import annotations

import logging
import math
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator
from torch import Tensor

from ..errors import CheckpointError, ImgtfError, Interrupted
from .agreement import Agreement
from .best import BestWeights
from .budget import TIME_UP, Budget
from .checkpoint import Progress
from .config import TrainingConfig
from .ema import EMA
from .guard import STREAK
from .interrupt import StopRequest
from .means import RunningMeans
from .memory import explained
from .report import LOG_FILE, Report
from .schedule import learning_rate
from .snapshot import restore_snapshot, take_snapshot
from .stage import Batch, MonitorAction, Stage
from .states import latest_state, step_of
from .store import Store

logger = logging.getLogger("imgtf")


@dataclass(frozen=True)
class TrainingResult:
    """Result of a finished run."""

    steps: int
    best_step: int
    """0 where no weights were better than those at the start of `tune_decoder`."""
    metrics: dict[str, float]
    """Held-out metrics of the best weights, which are the saved ones."""


class _NumbersLost(Exception):
    """Loss or gradients were not finite for `STREAK` updates in a row."""


class Trainer:
    """Trains one stage in a model folder.

    Writes `<stage>/` (the best averaged weights) and `training/<stage>/` (log, previews, states).
    """

    def __init__(
        self,
        stage: Stage,
        config: TrainingConfig,
        folder: Path,
        accelerator: Accelerator,
        budget: Budget | None = None,
    ) -> None:
        """`budget`: the time of the run; default: that of the settings, from now on."""
        self.stage, self.accelerator, self.budget = stage, accelerator, budget or Budget(config)
        self.config = stage.config = self.budget.undecided(config)
        stage.prepare(accelerator, config)
        self.ema = EMA(stage.model, config.ema_decay) if config.ema_decay > 0 else None
        self.agreement = Agreement()
        self.store = Store(folder, stage, self.ema, accelerator, self.agreement)
        self.folder = self.store.folder
        self.completed_steps = 0
        self.best = BestWeights(stage, self.ema, self.store)
        self.running = RunningMeans()
        self.snapshot: dict[str, Tensor] = {}
        """Weights for a rollback; {} without any."""
        self.after_evaluation: Callable[[], object] | None = None
        """Called in every process after evaluation and preview."""
        self.lost_at = 0
        """Step at which the run last went back to a saved state; 0 once a later state is saved."""

    def restore(self, step: int | None = None) -> None:
        """Load the last saved state, or that of a step. Nothing is written.

        A run that was killed after its last step has no steps left, but what follows them.

        Raises:
            CheckpointError: no such state, a state of another stage, or its run is complete.
        """
        progress = self.store.load(step)
        self.completed_steps, self.snapshot = progress.step, progress.snapshot
        self.best.record = progress.best
        self.running = RunningMeans(progress.sums)
        self.stage.guard.load(progress.guard)
        if self.completed_steps < self.config.steps:
            return
        done = f"{self.completed_steps} of {self.config.steps} steps are done"
        if self.store.is_complete() or self.completed_steps > self.config.steps:
            raise CheckpointError(f"{self.folder}: {done}; continue it with more --steps")
        logger.info("%s: only the model card and what belongs to it are missing", done)

    def run(self) -> TrainingResult:
        """Train until the last step.

        Raises:
            Interrupted: after SIGINT, SIGTERM or SIGUSR1, once the state is saved.
            CheckpointError: saving failed.
            ImgtfError: the loss stays not finite, or the memory does not suffice.
        """
        self.store.open()
        with StopRequest() as stop:
            try:
                while not self._train(stop):
                    pass
            except OSError:
                self.store.check_there()
                raise
            finally:
                # Accelerate's `end_training` would also end the process group.
                for tracker in self.accelerator.trackers:
                    tracker.finish()
        best = self.best.record
        return TrainingResult(self.completed_steps, best["step"], best["metrics"])

    def _train(self, stop: StopRequest) -> bool:
        """Train from the present step to the last; return False after going back to a saved state."""
        if self.completed_steps:
            self.store.go_back_to(self.completed_steps)
        report = Report(
            self.stage.name,
            self.folder / LOG_FILE,
            start=self.completed_steps,
            steps=self.budget.shown(self.config),
            batch_size=self.config.batch_size,
            active=self.accelerator.is_main_process,
            trackers=self.accelerator.trackers,
        )
        try:
            self._steps(report, stop)
        except _NumbersLost:
            self._go_back()
            return False
        finally:
            report.close()
        return True

    def _steps(self, report: Report, stop: StopRequest) -> None:
        budget = self.budget
        if self.stage.keeps_start and not self.completed_steps:
            with report.aside():
                report.evaluation(0, self.best.keep_start(), True)
        batches = self.stage.train_batches(self.completed_steps)
        budget.begin(self.agreement.any)
        while self.completed_steps < self.config.steps:
            for metrics in self._update(batches):
                self.running.add(metrics, self.stage.guard.skip)
            report.advance()
            self._decide(report)

            if self._due(self.config.log_every):
                self._log(report)
            budget.lap("step")
            with report.aside():
                self._look(report)

            ended = self.completed_steps == self.config.steps
            number = 0 if ended else self.agreement.largest(TIME_UP if budget.is_over() else stop.number)
            # While updates are skipped, the last good state is not replaced.
            if ended or number or (self._due(self.config.save_every) and not self.stage.guard.streak()):
                with report.aside():
                    self._save_state()
                budget.lap("saving")
            if number:
                raise self._interrupted(number)
        if not (self.best.record["step"] or self.stage.keeps_start):
            raise ImgtfError(f"the loss is not finite, so no weights were saved: {_REMEDIES}")

    def _update(self, batches: Iterator[Batch]) -> list[dict[str, Tensor]]:
        """Update the weights once, from one or more micro-batches. Return the metrics of each."""
        rate = learning_rate(self.completed_steps, self.config)
        for optimizer in self.stage.optimizers().values():
            for group in optimizer.param_groups:
                group["lr"] = rate * group.get("lr_ratio", 1.0)
        self.stage.completed_steps = self.completed_steps
        self.stage.network.train()
        networks = [optimized.network for optimized in self.stage.optimized_networks()]
        self.stage.guard.begin(self.stage.trained_modules().values())
        metrics = []
        with explained(self.config, self.accelerator.num_processes):
            for _ in range(self.config.gradient_accumulation_steps):
                with self.accelerator.accumulate(*networks):
                    found = self.stage.step(next(batches))
                metrics.append({name: value.detach() for name, value in found.items()})  # not its graph
        self.stage.guard.end()
        if self.ema:
            self.ema.update(self.completed_steps)
        self.completed_steps += 1
        return metrics

    def _decide(self, report: Report) -> None:
        """Decide the number of steps of a run with `minutes`, or change it: the main process, for all of them."""
        ask = self.accelerator.is_main_process
        changed = self.budget.decide(self.completed_steps, self.config, self.agreement.largest, ask)
        if changed:
            self.config = changed
            self.stage.follow(changed, self.completed_steps)
            report.decision(self.completed_steps, changed.steps)
            self.budget.on_decision()

    def _due(self, every: int) -> bool:
        return self.completed_steps % every == 0 or self.completed_steps == self.config.steps

    def _log(self, report: Report) -> None:
        """Log the metrics since the last line, and do what the stage's monitor asks for.

        Raises:
            _NumbersLost: after too many skipped updates in a row.
        """
        guard, means = self.stage.guard, self.running.means(self.accelerator)
        self.running = RunningMeans()
        metrics = means | self.stage.window_metrics()
        step = self.stage.completed_steps = self.completed_steps
        lost = guard.streak() >= STREAK
        # A line without any counted step says nothing about the images, until it lasts.
        action = self.stage.monitor_action(metrics) if lost or math.isfinite(metrics["loss"]) else None
        shown = {key: value for key, value in metrics.items() if math.isfinite(value)}
        if skipped := guard.take_skipped():
            shown["skipped_steps"] = skipped
        report.train(step, shown | {"lr": learning_rate(step - 1, self.config)})
        if action:
            report.monitor(step, action)
            self._apply(action)
        if lost and not (action and action.action == "roll_back"):
            raise _NumbersLost

    def _apply(self, action: MonitorAction) -> None:
        if action.action == "snapshot":
            self.snapshot = take_snapshot(self.stage, self.ema)
        elif action.action == "roll_back":
            restore_snapshot(self.snapshot, self.stage, self.ema)
            self.stage.guard.load({})

    def _go_back(self) -> None:
        """Load the last state that was saved before the numbers were lost, once.

        Raises:
            ImgtfError: there is none, or it was of no help.
        """
        lost, state = self.completed_steps, latest_state(self.store.states)
        what = f"loss or gradients are not finite for {STREAK} steps or more, at step {lost}"
        if state is None or self.lost_at:
            before = (
                "again, after going back to the last good state" if state else "before the first saved state"
            )
            raise ImgtfError(f"{what}, {before}: {_REMEDIES}; what was saved is unchanged")
        logger.warning("%s: going back to the state of step %d, once", what, step_of(state))
        self.restore()
        self.lost_at = lost

    def _look(self, report: Report) -> None:
        """Evaluate, draw a preview, and call `after_evaluation`, where they are due."""
        if self._due(self.config.eval_every):
            self._evaluate(report)
            self.budget.lap("evaluation")
        if self._due(self.config.preview_every):
            self._preview()
            self.budget.lap("preview")
        if self.after_evaluation and self._due(self.config.eval_every):
            self.after_evaluation()

    def _evaluate(self, report: Report) -> None:
        report.evaluation(self.completed_steps, *self.best.evaluate(self.completed_steps))
        self.accelerator.wait_for_everyone()

    def _preview(self) -> None:
        if not self.stage.guard.streak():
            path = self.folder / "previews" / f"step-{self.completed_steps:08d}.png"
            self.best.preview(path, draw=self.accelerator.is_main_process)
        self.accelerator.wait_for_everyone()

    def _save_state(self) -> None:
        guard = self.stage.guard
        progress = Progress(
            self.completed_steps, self.best.record, self.running.tensors(), self.snapshot, guard.tensors()
        )
        self.store.save_state(progress, self.config.keep_states)
        if self.completed_steps > self.lost_at and not guard.streak():
            self.lost_at = 0

    def _interrupted(self, number: int) -> Interrupted:
        name = "--max-minutes" if number == TIME_UP else signal.Signals(number).name
        steps = self.budget.shown(self.config)
        text = f"stopped by {name} at step {self.completed_steps} of {steps}, state saved in {self.folder}"
        return Interrupted(text, number, self.stage.name, self.store.model)


_REMEDIES = "try a lower --lr, a lower --grad-clip, a longer --warmup or --precision fp32"
