"""What a run tells: a bar or plain lines for people, JSON lines for programs."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate.tracking import GeneralTracker
from tqdm import tqdm

logger = logging.getLogger("imgtf")

LOG_FILE = "log.jsonl"


class Report:
    """The log of one run. Only the main process writes."""

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
        """`trackers` get the figures too, as `training/loss` and so on."""
        self.trackers = trackers
        self.name, self.path, self.steps, self.batch_size, self.active = name, path, steps, batch_size, active
        self.last_step, self.last_time = start, time.perf_counter()
        self.plain = not sys.stderr.isatty()
        self.bar = tqdm(
            total=steps,
            initial=start,
            desc=name,
            unit="step",
            disable=self.plain or not active,
            dynamic_ncols=True,
        )
        if active:
            path.parent.mkdir(parents=True, exist_ok=True)
            _forget_after(path, start)

    def train(self, step: int, figures: dict[str, float]) -> None:
        """A line of training figures, with the speed since the last one."""
        now = time.perf_counter()
        speed = (step - self.last_step) * self.batch_size / max(1e-9, now - self.last_time)
        self.last_step, self.last_time = step, now
        figures = figures | {"images_per_second": round(speed, 2)}
        self._write({"step": step, **figures})
        self._track(step, "training", figures)
        if not self.active:
            return
        shown = {k: figures[k] for k in figures if k not in ("lr", "images_per_second")}
        self.bar.set_postfix_str(f"{_text(shown)} | {speed:.0f} images/s")
        if self.plain:
            left = (self.steps - step) * self.batch_size / max(1e-9, speed)
            logger.info(
                "%s %d/%d | %s | %.0f images/s | %s left",
                self.name, step, self.steps, _text(shown), speed, tqdm.format_interval(left),
            )  # fmt: skip

    def advance(self) -> None:
        """One step more on the bar."""
        self.bar.update()

    def evaluation(self, step: int, figures: dict[str, float], best: bool) -> None:
        """A line of held-out figures. The time they took does not count as training."""
        self._write({"step": step, "held_out": figures, "best": best})
        self._track(step, "held_out", figures)
        if self.active:
            mark = " (best so far, kept)" if best else ""
            logger.info("%s step %d | held out: %s%s", self.name, step, _text(figures), mark)
        self.last_time = time.perf_counter()

    def verdict(self, step: int, action: str, reason: str) -> None:
        """A line for what was done to the run itself, and why."""
        self._write({"step": step, "doctor": action, "reason": reason})
        if self.active and action != "keep":
            logger.warning("%s step %d | doctor: %s: %s", self.name, step, action, reason)

    def close(self) -> None:
        """Ends the bar."""
        self.bar.close()

    def _track(self, step: int, kind: str, figures: dict[str, float]) -> None:
        if self.active:
            for tracker in self.trackers:
                tracker.log({f"{kind}/{key}": value for key, value in figures.items()}, step=step)

    def _write(self, row: dict[str, Any]) -> None:
        if self.active:
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")


def _forget_after(path: Path, step: int) -> None:
    """Drops the lines that a resumed run will write again."""
    if not path.exists():
        return
    lines = path.read_text().splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(kept))
    os.replace(temporary, path)


def _text(figures: dict[str, float]) -> str:
    return ", ".join(f"{key} {value:.4g}" for key, value in figures.items())
