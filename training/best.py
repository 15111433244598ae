"""The weights that a run keeps: their evaluation on held-out data, and those that were best."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from .ema import EMA
from .stage import Stage
from .store import Store


class BestWeights:
    """Evaluates and shows the averaged weights, and saves the best ones."""

    def __init__(self, stage: Stage, ema: EMA | None, store: Store) -> None:
        self.stage, self.ema, self.store = stage, ema, store
        self.record: dict[str, Any] = {"step": 0, "metrics": {}}
        """Step and held-out metrics of the saved weights; step 0 for none."""

    @torch.no_grad()
    def keep_start(self) -> dict[str, float]:
        """Take the weights at the start, which are saved already, as the best so far; return their metrics."""
        self.stage.model.eval()
        with self.stage.unsharded():
            self.record = {"step": 0, "metrics": self.stage.evaluate()}
        return dict(self.record["metrics"])

    @torch.no_grad()
    def evaluate(self, step: int) -> tuple[dict[str, float], bool]:
        """Evaluate the weights of a step, and save them if they are the best so far; return metrics and whether.

        All processes take part and find the same.
        """
        self.stage.model.eval()
        with self._averaged():
            with self.stage.unsharded():
                metrics = self.stage.evaluate()
            is_best = self.stage.is_better(metrics, self._metrics(step))
            if is_best:
                self.store.save_weights()
                self.record = {"step": step, "metrics": metrics}
        return metrics, is_best

    @torch.no_grad()
    def preview(self, path: Path, *, draw: bool) -> None:
        """Write a picture of what the weights can do. The folder of the run must be there.

        All processes take part; the one with `draw` writes.
        """
        self.stage.model.eval()
        with self._averaged(), self.stage.unsharded():
            if draw:
                path.parent.mkdir(exist_ok=True)
                self.stage.preview(path)

    def _metrics(self, step: int) -> dict[str, float]:
        """Return the metrics to compare with; {} if those of the saved weights cannot be compared any more."""
        if self.record["step"] < self.stage.comparable_from() <= step:
            return {}
        return dict(self.record["metrics"])

    def _averaged(self) -> AbstractContextManager[None]:
        return self.ema.applied() if self.ema else nullcontext()
