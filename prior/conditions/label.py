"""The class label: one token in front of the codes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import DataError
from ...options import bounded
from .base import ConditionConfig, Grid
from .embedding import ConditionEmbedding

MAX_CLASSES = 2**20


@dataclass(frozen=True)
class LabelConfig(ConditionConfig, kind="label"):
    """Classes by name. The value is (B,) int64 class numbers; -1 is no label."""

    kind: str = "label"
    class_names: tuple[str, ...] = bounded((), most=MAX_CLASSES)

    @property
    def is_prefix(self) -> bool:
        return True

    def length(self, grid: Grid) -> int:
        return 1

    def describe(self) -> str:
        return f"{len(self.class_names)} classes"

    def embedding(self, width: int, grid: Grid) -> LabelEmbedding:
        return LabelEmbedding(len(self.class_names), width)

    def from_batch(self, batch: Mapping[str, Any]) -> Tensor:
        return batch["label"]


class LabelEmbedding(ConditionEmbedding):
    """A table of classes. Its last row stands for "no label", also for the start of an unconditional prior."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.classes = classes
        self.table = nn.Embedding(classes + 1, width)

    def forward(self, value: Tensor | None, dropped: Tensor) -> tuple[Tensor, Tensor]:
        visible = torch.ones_like(dropped)[:, None]  # (B, 1)
        label = torch.full_like(dropped, -1, dtype=torch.long)
        if value is not None:
            label = value
            wrong = label[(label >= self.classes) | (label < -1)]
            if wrong.numel():
                raise DataError(f"label {int(wrong[0])} is not one of the prior's {self.classes} classes")
        row = torch.where((label < 0) | dropped, self.classes, label)
        return self.table(row)[:, None], visible  # (B, 1, D)
