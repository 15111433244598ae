"""The doctor: reads the log of a run with a discriminator and says when to go back to the last good weights."""

from __future__ import annotations

import math
from typing import Any

from ..training.stage import MonitorAction
from .config import TokenizerRecipe

WINDOW = 5
"""Log lines that are averaged."""
MARGIN = 1.0
"""Loss of training PSNR in dB, against the best so far, that calls for a rollback."""
MOST_ACCURACY = 0.98
"""Accuracy on real and on fake images above which the discriminator has won."""
EASING = 0.5
"""What a rollback leaves of the discriminator's weight; of the second in a row it is this squared, and so on."""


class DivergenceMonitor:
    """Judges the figures of every log line; remembers, changes nothing but itself.

    - Just before the discriminator starts, and whenever the running mean of the training PSNR reaches a new
      height, the weights are good: keep them.
    - When that mean falls `margin` dB below the best, when it is no number, or when the discriminator is right
      about nearly everything for a whole window, go back to the kept weights and halve the discriminator's
      weight, which then rises anew over its ramp. Where that was not enough, and the next trouble comes within that
      ramp and a window, ease by more than the time before: a weight far too high is found out in a few steps.
    """

    def __init__(self, recipe: TokenizerRecipe, log_every: int) -> None:
        self.start, self.length = recipe.discriminator_start, recipe.discriminator_ramp
        self.log_every = log_every
        self.since = self.start
        """Step at which the present ramp began."""
        self.scale = 1.0
        """Share of the discriminator's weight that is left."""
        self.rollbacks = 0
        self.streak = 0
        """Rollbacks of late, each soon after the one before."""
        self.kept = False
        self.best: float | None = None
        self.errors: list[float] = []
        """Squared errors of the last log lines."""
        self.accuracies: list[float] = []
        """The lesser of both accuracies in the last log lines under full weight."""

    def observe(self, step: int, figures: dict[str, float]) -> MonitorAction | None:
        """The figures of the log line after `step` updates."""
        self.errors = [*self.errors, figures["l2"]][-WINDOW:]
        psnr = self._psnr()
        if step <= self.start:
            if step + self.log_every <= self.start:
                return None
            self.best, self.kept = psnr, True  # the last line before the first adversarial step
            return MonitorAction("keep", "the discriminator starts")
        if "accuracy_real" in figures and step >= self.since + self.length:
            lesser = min(figures["accuracy_real"], figures["accuracy_fake"])
            self.accuracies = [*self.accuracies, lesser][-WINDOW:]
        trouble = self._trouble(psnr)
        if trouble:
            return self._roll_back(step, trouble)
        if self.best is None or psnr > self.best:
            self.best, self.kept = psnr, True
            return MonitorAction("keep", f"training PSNR {psnr:.2f} dB")
        return None

    def _psnr(self) -> float:
        """Of the mean error of the window, in dB for images in [-1, 1]; minus infinity where that is no number."""
        error = sum(self.errors) / len(self.errors)
        return 10 * math.log10(4 / max(error, 1e-10)) if math.isfinite(error) else -math.inf

    def _trouble(self, psnr: float) -> str:
        if self.best is not None and psnr < self.best - MARGIN:
            return f"training PSNR fell from {self.best:.2f} to {psnr:.2f} dB"
        if len(self.accuracies) == WINDOW and min(self.accuracies) > MOST_ACCURACY:
            return f"the discriminator is right about {min(self.accuracies):.1%} of all patches"
        return ""

    def _roll_back(self, step: int, reason: str) -> MonitorAction:
        soon = step <= self.since + self.length + WINDOW * self.log_every
        self.streak = self.streak + 1 if self.streak and soon else 1
        self.scale *= EASING**self.streak
        self.since = step
        self.rollbacks += 1
        self.errors, self.accuracies = [], []
        return MonitorAction("roll back" if self.kept else "ease", reason)

    def state(self) -> dict[str, Any]:
        """What it remembers, as JSON values."""
        names = ("since", "scale", "rollbacks", "streak", "kept", "best", "errors", "accuracies")
        return {name: getattr(self, name) for name in names}

    def load_state(self, state: dict[str, Any]) -> None:
        """The reverse of `state`."""
        for name, value in state.items():
            setattr(self, name, value)
