"""The log of a run: a progress bar or plain lines for people, JSON lines and trackers for programs."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate.tracking import GeneralTracker

from ..runtime.progress import Bar, duration
from .stage import MonitorAction

logger = logging.getLogger("imgtf")

LOG_FILE = "log.jsonl"


class Report:
    """The log of one run. Only an active report (that of the main process) writes."""

    def __init__(
        self,
        name: str,
        path: Path,
        *,
        start: int,
        steps: int,
        batch_size: int,
        active: bool,
        trackers: Sequence[GeneralTracker] = (),
    ) -> None:
        """`trackers` receive the metrics under the names `training/loss`, `held_out/loss` and so on."""
        self.trackers = trackers
        self.name, self.path, self.steps, self.batch_size, self.active = name, path, steps, batch_size, active
        self.last_step, self.last_time = start, time.perf_counter()
        self.began = self.last_time
        self.bar = Bar(name, steps, "step", done=start, shown=active, delay=0)
        if active:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.began -= _drop_after(path, start)

    def train(self, step: int, metrics: dict[str, float]) -> None:
        """Log training metrics, and the speed since the last call."""
        now = time.perf_counter()
        speed = (step - self.last_step) * self.batch_size / max(1e-9, now - self.last_time)
        self.last_step, self.last_time = step, now
        metrics = metrics | {"images_per_second": round(speed, 2)}
        self._write(step, metrics)
        self._track(step, "training", metrics)
        if not self.active:
            return
        shown = {k: metrics[k] for k in metrics if k not in ("lr", "images_per_second")}
        if self.bar.visible:
            self.bar.note(f"{speed:.0f} images/s | {_text(shown)}")
        else:
            left = (self.steps - step) * self.batch_size / max(1e-9, speed)
            logger.info(
                "%s %d/%d | %s | %.0f images/s | %s left",
                self.name, step, self.steps, _text(shown), speed, duration(left),
            )  # fmt: skip

    def decision(self, step: int, steps: int) -> None:
        """Count to another number of steps."""
        self._write(step, {"steps": steps})
        if self.active:
            logger.info("%s step %d | %d steps fit the time", self.name, step, steps)
        self.bar.grow(steps - self.steps)
        self.steps = steps

    def advance(self) -> None:
        """Advance the bar by one step."""
        self.bar.update()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """The time inside is not part of the training speed."""
        start = time.perf_counter()
        yield
        self.last_time += time.perf_counter() - start

    def evaluation(self, step: int, metrics: dict[str, float], is_best: bool) -> None:
        """Log held-out metrics."""
        self._write(step, {"held_out": metrics, "best": is_best})
        self._track(step, "held_out", metrics)
        if self.active:
            note = " (best so far, saved)" if is_best else ""
            logger.info("%s step %d | held out: %s%s", self.name, step, _text(metrics), note)

    def monitor(self, step: int, action: MonitorAction) -> None:
        """Log an action of the stage's monitor. Snapshots appear in the log file only."""
        self._write(step, {"monitor": action.action, "reason": action.reason})
        if self.active and action.action != "snapshot":
            words = action.action.replace("_", " ")
            logger.warning("%s step %d | monitor: %s: %s", self.name, step, words, action.reason)

    def close(self) -> None:
        """Close the bar."""
        self.bar.close()

    def _track(self, step: int, kind: str, metrics: dict[str, float]) -> None:
        if self.active:
            for tracker in self.trackers:
                tracker.log({f"{kind}/{key}": value for key, value in metrics.items()}, step=step)

    def _write(self, step: int, values: dict[str, Any]) -> None:
        """Write a line with the step and the seconds of the run so far, over all its parts between resumes."""
        if self.active:
            row = {"step": step, **values, "seconds": round(time.perf_counter() - self.began, 1)}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


def _drop_after(path: Path, step: int) -> float:
    """Drop the lines that a resumed run will write again; return the seconds of the run until then."""
    if not path.exists():
        return 0
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(kept), encoding="utf-8")
    os.replace(temporary, path)
    return float(json.loads(kept[-1]).get("seconds", 0)) if kept else 0


def _text(metrics: dict[str, float]) -> str:
    return ", ".join(f"{key} {value:.4g}" for key, value in metrics.items())
