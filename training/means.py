"""Means of the training metrics between two log lines."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import Tensor


class RunningMeans:
    """Sums and numbers of micro-batches by metric. Some metrics may be missing; steps without an update do not count.

    All values stay on the device: only `means` waits for it.
    """

    def __init__(self, tensors: dict[str, Tensor] | None = None) -> None:
        """`tensors`: the result of `tensors`, to continue."""
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, Tensor] = {}
        for name, value in (tensors or {}).items():
            kind, key = name.split("/", 1)
            (self.sums if kind == "sum" else self.counts)[key] = value

    def add(self, metrics: dict[str, Tensor], skipped: Tensor) -> None:
        """Add the metrics of a micro-batch. Where `skipped` () is 1 they count as missing, because they may be NaN."""
        counted = 1 - skipped
        for key, value in metrics.items():
            kept = torch.where(skipped > 0, 0.0, value)
            self.sums[key] = self.sums.get(key, 0) + kept
            self.counts[key] = self.counts.get(key, 0) + counted

    def means(self, accelerator: Accelerator) -> dict[str, float]:
        """Return the means over all steps and processes; NaN where no step counts."""
        sums = torch.stack([s.float() for s in self.sums.values()])
        if accelerator.num_processes > 1:
            sums = accelerator.reduce(sums, "mean")
        counts = torch.stack(list(self.counts.values())).tolist()
        pairs = zip(self.sums, sums.tolist(), counts, strict=True)
        return {key: total / count if count else float("nan") for key, total, count in pairs}

    def tensors(self) -> dict[str, Tensor]:
        """Return all values as `sum/metric` and `count/metric`, for the training state."""
        return {f"sum/{key}": value for key, value in self.sums.items()} | {
            f"count/{key}": value for key, value in self.counts.items()
        }
