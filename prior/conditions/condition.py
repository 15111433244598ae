"""The values of all conditions for a batch of images, before and after the network has encoded them.

Shapes: B images, S prefix tokens, L encoder states, T grid positions, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


class Condition(dict[str, Tensor]):
    """What B images are conditioned on: the value (B, ...) of each condition by its kind.

    A missing kind is unconditional, as a dropped one in training.
    """

    def __init__(self, **values: Tensor | None) -> None:
        super().__init__({kind: value for kind, value in values.items() if value is not None})

    @property
    def empty(self) -> bool:
        """Whether the images are unconditional."""
        return not self

    def to(self, device: torch.device) -> Condition:
        """The same on another device."""
        return Condition(**{kind: value.to(device, non_blocking=True) for kind, value in self.items()})


@dataclass(frozen=True)
class EncodedCondition:
    """A condition as the network reads it."""

    prefix: Tensor
    """(B, S, D), in front of the codes."""
    prefix_visible: Tensor | None
    """(B, S), which prefix tokens are not padding; None for all."""
    states: Tensor | None = None
    """(B, L, D), encoder states for cross-attention."""
    states_mask: Tensor | None = None
    """(B, 1, 1, L), which of them may be attended to."""
    aligned: Tensor | None = None
    """(B, T, D), added to the token that predicts each grid position."""
    states_rotary: Tensor | None = None
    """(L, head_width / 2, 2), rotary embedding of the encoder states."""

    def rows(self, start: int, end: int) -> EncodedCondition:
        """Rows `start` to `end` of the batch."""
        own: dict[str, Any] = {name: getattr(self, name) for name in BATCHED}
        rows: dict[str, Any] = {name: t if t is None else t[start:end] for name, t in own.items()}
        return replace(self, **rows)

    def cat(self, other: EncodedCondition) -> EncodedCondition:
        """The rows of both, these first."""
        pairs = {name: (getattr(self, name), getattr(other, name)) for name in BATCHED}
        return replace(self, **{n: torch.cat([a, b]) for n, (a, b) in pairs.items() if a is not None})


BATCHED = ("prefix", "prefix_visible", "states", "states_mask", "aligned")
"""Fields of `EncodedCondition` with a row per image."""
