"""What the embedding of a condition computes.

Shapes: B batch, n tokens of the condition, D width, h, w grid of the prior.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from ...errors import DataError


class ConditionEmbedding(nn.Module, ABC):
    """Values of one condition to tokens of the prior's width."""

    @abstractmethod
    def forward(self, value: Tensor | None, dropped: Tensor) -> tuple[Tensor, Tensor]:
        """Values (B, ...) or None to tokens (B, n, D) and which of them are visible, (B, n) bool.

        Args:
            dropped: (B,) bool, rows whose condition is hidden: dropout for classifier-free guidance.

        Raises:
            DataError: for values of another shape or range than the condition has.
        """

    def initialise(self) -> None:
        """Adjust the initial weights, after linear layers and tables got theirs (deviation 0.02)."""

    def unconditional(self, value: Tensor) -> Tensor | None:
        """The value that guidance compares with; None: no value at all."""
        return None

    def positions(self, grid: tuple[int, int]) -> Tensor | None:
        """Grid positions (n, 2) of the tokens for their rotary embedding; None where they have none."""
        return None

    def align(self, states: Tensor, visible: Tensor, null: Tensor, grid: tuple[int, int]) -> Tensor | None:
        """Encoder states (B, n, D) by grid position, (B, T, D), added to the code tokens; None to add nothing.

        Args:
            visible: (B, n) bool, which states are conditioned on.
            null: (B, 1, D), the encoder's state for "nothing".
        """
        return None


def check_shape(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    """DataError unless `value` is (B, *shape)."""
    if tuple(value.shape[1:]) != tuple(shape):
        wanted = ", ".join(map(str, shape))
        raise DataError(f"{name} must be (B, {wanted}) for this prior, got {tuple(value.shape)}")
