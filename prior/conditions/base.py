"""What every condition of a prior provides: its settings, its cache columns, its embedding. No heavy imports.

A condition is one file in this folder. Its config class registers itself by its `kind`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ...errors import ConfigError
from ...options import shown

if TYPE_CHECKING:
    from torch import Tensor, nn

Grid = tuple[int, int]


@dataclass(frozen=True)
class ConditionConfig:
    """Settings of one condition, part of the prior's config.json."""

    kind: str = ""
    """Name of the condition: also the keyword of `Prior.forward` and `Pipeline.sample`."""

    kinds: ClassVar[dict[str, type[ConditionConfig]]] = {}
    """Every known condition by its kind."""

    def __init_subclass__(cls, kind: str = "", **options: Any) -> None:
        super().__init_subclass__(**options)
        if kind:
            ConditionConfig.kinds[kind] = cls

    @staticmethod
    def class_of(values: Mapping[str, Any]) -> type[ConditionConfig]:
        """The config class that a mapping from JSON describes."""
        kind = values.get("kind")
        if not isinstance(kind, str) or kind not in ConditionConfig.kinds:
            known = ", ".join(ConditionConfig.kinds)
            raise ConfigError(f"unknown condition {shown(kind)}; this version knows {known}")
        return ConditionConfig.kinds[kind]

    @property
    def is_prefix(self) -> bool:
        """Whether the tokens stand in front of the codes; else an encoder reads them for cross-attention."""
        return False

    def length(self, grid: Grid) -> int:
        """Number of tokens of this condition, for a prior of this grid."""
        raise NotImplementedError

    def describe(self) -> str:
        """The condition in a few words, for people."""
        return self.kind

    def continuing(self, trained: ConditionConfig) -> ConditionConfig:
        """The settings with which training continues from a prior whose condition was `trained`.

        Raises:
            ConfigError: where the prior cannot continue with this condition.
        """
        del trained
        return self

    def embedding(self, width: int, grid: Grid) -> nn.Module:
        """The `ConditionEmbedding` of this condition."""
        raise NotImplementedError

    def columns(self, origin: str) -> tuple[Any, ...]:
        """The `CacheColumn`s that this condition adds to a token cache; `origin` identifies what made them."""
        return ()

    def from_batch(self, batch: Mapping[str, Any]) -> Tensor:
        """The value of this condition for a batch of the token cache."""
        raise NotImplementedError
