"""The divergence monitor: detects from the log that a discriminator spoils training, and asks for a rollback."""

from __future__ import annotations

import math
from typing import Any

from ..training.stage import MonitorAction
from .recipe import TokenizerRecipe

WINDOW = 5
"""Log lines that are averaged."""
MARGIN = 1.0
"""Drop of the training PSNR below its best value, in dB, that counts as divergence."""
MAX_ACCURACY = 0.98
"""Accuracy on real and on fake images above which the discriminator has won."""
REDUCTION = 0.5
"""Factor on the discriminator's weight after a rollback. After the second in a row it is squared, and so on."""


class DivergenceMonitor:
    """Reads the metrics of every log line and returns an action for the training loop.

    - snapshot: just before the discriminator starts, and at every new maximum of the mean training PSNR.
    - roll_back: the mean training PSNR is `MARGIN` dB below its maximum or not finite, or the discriminator's accuracy
      is above `MAX_ACCURACY` for a whole window. The loop restores the snapshot. The discriminator's weight is reduced
      and rises again over its ramp. Each further rollback within that ramp and a window reduces it by more than the one
      before, because a weight far too high diverges again within a few steps.
    - reduce_weight: the same without a snapshot to restore.
    """

    def __init__(self, recipe: TokenizerRecipe, log_every: int) -> None:
        self.start, self.ramp_length = recipe.discriminator_start, recipe.discriminator_ramp
        self.log_every = log_every
        self.ramp_start = self.start
        """Step at which the current ramp began."""
        self.weight_ratio = 1.0
        """Fraction of the recipe's discriminator weight that is in use."""
        self.rollbacks = 0
        self.consecutive_rollbacks = 0
        """Rollbacks that each followed soon after the one before."""
        self.has_snapshot = False
        self.best_psnr: float | None = None
        self.errors: list[float] = []
        """Squared errors of the last log lines."""
        self.accuracies: list[float] = []
        """Lower one of both accuracies in the last log lines at full weight."""

    def observe(self, step: int, metrics: dict[str, float]) -> MonitorAction | None:
        """Return the action after the log line of `step` updates, None for none."""
        self.errors = [*self.errors, metrics["l2"]][-WINDOW:]
        psnr = self._psnr()
        if step <= self.start:
            last_line = step + self.log_every > self.start
            return self._snapshot(psnr, "the discriminator starts") if last_line else None
        if "accuracy_real" in metrics and step >= self.ramp_start + self.ramp_length:
            accuracy = min(metrics["accuracy_real"], metrics["accuracy_fake"])
            self.accuracies = [*self.accuracies, accuracy][-WINDOW:]
        reason = self._divergence(psnr)
        if reason:
            return self._roll_back(step, reason)
        if self.best_psnr is None or psnr > self.best_psnr:
            return self._snapshot(psnr, f"training PSNR {psnr:.2f} dB")
        return None

    def _psnr(self) -> float:
        """Return the PSNR of the window's mean error in dB (images in [-1, 1]), minus infinity if not finite."""
        error = sum(self.errors) / len(self.errors)
        return 10 * math.log10(4 / max(error, 1e-10)) if math.isfinite(error) else -math.inf

    def _divergence(self, psnr: float) -> str:
        """Return why training has diverged; empty if it has not."""
        if self.best_psnr is not None and psnr < self.best_psnr - MARGIN:
            return f"training PSNR fell from {self.best_psnr:.2f} to {psnr:.2f} dB"
        if len(self.accuracies) == WINDOW and min(self.accuracies) > MAX_ACCURACY:
            return (
                f"the discriminator classifies at least {min(self.accuracies):.1%} of all patches correctly"
            )
        return ""

    def _snapshot(self, psnr: float, reason: str) -> MonitorAction:
        self.best_psnr, self.has_snapshot = psnr, True
        return MonitorAction("snapshot", reason)

    def _roll_back(self, step: int, reason: str) -> MonitorAction:
        soon = step <= self.ramp_start + self.ramp_length + WINDOW * self.log_every
        self.consecutive_rollbacks = (
            self.consecutive_rollbacks + 1 if self.consecutive_rollbacks and soon else 1
        )
        self.weight_ratio *= REDUCTION**self.consecutive_rollbacks
        self.ramp_start = step
        self.rollbacks += 1
        self.errors, self.accuracies = [], []
        return MonitorAction("roll_back" if self.has_snapshot else "reduce_weight", reason)

    def state(self) -> dict[str, Any]:
        """Return what changes in training, as JSON values."""
        names = (
            "ramp_start", "weight_ratio", "rollbacks", "consecutive_rollbacks", "has_snapshot", "best_psnr",
            "errors", "accuracies",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore the result of `state`."""
        for name, value in state.items():
            setattr(self, name, value)
        if not self.rollbacks:
            self.ramp_start = self.start

    def move(self, recipe: TokenizerRecipe) -> None:
        """Follow a recipe in which the discriminator, which has not started yet, starts at another step."""
        self.start = self.ramp_start = recipe.discriminator_start
        self.ramp_length = recipe.discriminator_ramp
