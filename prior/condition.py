"""What stands in front of the sequence: a class label as one token, or features of a text encoder."""

from __future__ import annotations

import torch
import torch.nn.functional as F
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

    def without(self, label: Tensor) -> Tensor:
        """The "no label" that stands in the place of each."""
        return torch.full_like(label, self.classes)

    def visible(self, label: Tensor) -> Tensor | None:
        """Nothing is hidden."""
        return None


class FeatureEmbedding(nn.Module):
    """Features (B, S, F), say of a text encoder, to S prefix tokens by two layers around a GELU (PixArt's, LlamaGen's).

    `null` stands for "no features". Rows of zeros are padding, which no other slot attends to.
    """

    def __init__(self, features: int, slots: int, width: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.null = nn.Parameter(torch.randn(slots, features) / features**0.5)
        self.up = nn.Linear(features, width, bias=False)
        self.down = nn.Linear(width, width, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, S, F) to tokens (B, S, D)."""
        if self.training and self.dropout > 0:
            hidden = torch.rand(len(features), device=features.device) < self.dropout
            features = torch.where(hidden[:, None, None], self.without(features), features)
        return self.down(F.gelu(self.up(features), approximate="tanh"))

    def without(self, features: Tensor) -> Tensor:
        """The "no features" that stand in the place of these, padded where they are."""
        return self.null * self.visible(features)[..., None]

    def resolve(self, features: Tensor | None, rows: int, device: torch.device) -> Tensor:
        """Features for each row: None becomes "no features"; the shape of others is checked."""
        if features is None:
            return self.null.expand(rows, -1, -1)
        if features.shape != (rows, *self.null.shape):
            expected = (rows, *self.null.shape)
            raise DataError(f"{rows} sequences need features {expected}, got shape {tuple(features.shape)}")
        return features.to(device, self.null.dtype)

    def visible(self, features: Tensor) -> Tensor:
        """Which slots (B, S) of features (B, S, F) are not padding."""
        return (features != 0).any(-1)


def attention_mask(visible: Tensor, slot: int, n: int) -> Tensor:
    """Which keys the n slots from `slot` on may read, (B, 1, n, slot + n), given the visible prefix (B, S).

    Each reads itself and what comes before it, but for hidden slots of the prefix.
    """
    end = slot + n
    shown = F.pad(visible, (0, max(0, end - visible.shape[1])), value=True)[:, None, None, :end]
    query = torch.arange(slot, end, device=visible.device)[:, None]
    key = torch.arange(end, device=visible.device)
    return (key < query) & shown | (key == query)
