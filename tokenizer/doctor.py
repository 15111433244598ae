"""The doctor: reads the log of a run with a discriminator and says when to go back to the last good weights."""

from __future__ import annotations

import math
from typing import Any

from ..training.stage import Verdict
from .config import TokenizerRecipe

EASING = 0.5
"""What a rollback leaves of the discriminator's weight; of the second in a row it is this squared, and so on."""


class Doctor:
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
        self.window, self.margin, self.accuracy = (
            recipe.doctor_window,
            recipe.doctor_margin,
            recipe.doctor_accuracy,
        )
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

    def observe(self, step: int, figures: dict[str, float]) -> Verdict | None:
        """The figures of the log line after `step` updates."""
        self.errors = [*self.errors, figures["l2"]][-self.window :]
        psnr = self._psnr()
        if step <= self.start:
            if step + self.log_every <= self.start:
                return None
            self.best, self.kept = psnr, True  # the last line before the first adversarial step
            return Verdict("keep", "the discriminator starts")
        if "accuracy_real" in figures and step >= self.since + self.length:
            lesser = min(figures["accuracy_real"], figures["accuracy_fake"])
            self.accuracies = [*self.accuracies, lesser][-self.window :]
        trouble = self._trouble(psnr)
        if trouble:
            return self._roll_back(step, trouble)
        if self.best is None or psnr > self.best:
            self.best, self.kept = psnr, True
            return Verdict("keep", f"training PSNR {psnr:.2f} dB")
        return None

    def _psnr(self) -> float:
        """Of the mean error of the window, in dB for images in [-1, 1]; minus infinity where that is no number."""
        error = sum(self.errors) / len(self.errors)
        return 10 * math.log10(4 / max(error, 1e-10)) if math.isfinite(error) else -math.inf

    def _trouble(self, psnr: float) -> str:
        if self.best is not None and psnr < self.best - self.margin:
            return f"training PSNR fell from {self.best:.2f} to {psnr:.2f} dB"
        if len(self.accuracies) == self.window and min(self.accuracies) > self.accuracy:
            return f"the discriminator is right about {min(self.accuracies):.1%} of all patches"
        return ""

    def _roll_back(self, step: int, reason: str) -> Verdict:
        soon = step <= self.since + self.length + self.window * self.log_every
        self.streak = self.streak + 1 if self.streak and soon else 1
        self.scale *= EASING**self.streak
        self.since = step
        self.rollbacks += 1
        self.errors, self.accuracies = [], []
        return Verdict("roll back" if self.kept else "ease", reason)

    def state(self) -> dict[str, Any]:
        """What it remembers, as JSON values."""
        names = ("since", "scale", "rollbacks", "streak", "kept", "best", "errors", "accuracies")
        return {name: getattr(self, name) for name in names}

    def load_state(self, state: dict[str, Any]) -> None:
        """The reverse of `state`."""
        for name, value in state.items():
            setattr(self, name, value)
