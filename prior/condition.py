"""The class label as the token in front of the sequence."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..errors import DataError


class LabelEmbedding(nn.Module):
    """Labels to prefix tokens. The last row stands for "no label": the prior without condition.

    In training a share of the labels is hidden, so that one network learns both (classifier-free guidance,
    Ho and Salimans 2022, arXiv:2207.12598).
    """

    def __init__(self, classes: int, width: int, dropout: float) -> None:
        super().__init__()
        self.classes = classes
        self.dropout = dropout
        self.table = nn.Embedding(classes + 1, width)

    def forward(self, label: Tensor) -> Tensor:
        """Labels (B,) in [0, classes], where `classes` means none, to tokens (B, 1, D)."""
        if self.training and self.dropout > 0 and self.classes > 0:
            hidden = torch.rand(label.shape, device=label.device) < self.dropout
            label = label.masked_fill(hidden, self.classes)
        return self.table(label)[:, None]

    def resolve(self, label: Tensor | None, rows: int, device: torch.device) -> Tensor:
        """A label per row: None and -1 become "no label"; others are checked."""
        if label is None:
            return torch.full((rows,), self.classes, device=device)
        label = torch.as_tensor(label, device=device)
        if label.shape != (rows,):
            raise DataError(f"{rows} sequences need {rows} labels, got shape {tuple(label.shape)}")
        if label.numel() and (label.max() >= max(self.classes, 1) or label.min() < -1):
            wrong = label[(label >= self.classes) | (label < -1)][0]
            raise DataError(f"label {int(wrong)} is not among the prior's {self.classes} classes")
        return torch.where(label < 0, self.classes, label)
