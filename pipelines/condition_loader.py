"""What a loader of a condition does: bring its values from a data set, or from a person who samples."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image
from torch import Tensor

from ..data.codes import CacheColumn
from ..data.config import ConditionDataConfig, DataConfig
from ..data.source import ImageSource
from ..errors import ConfigError
from ..prior.conditions.condition import Condition
from ..prior.recipe import CacheRecipe
from ..tokenizer.model import Tokenizer

Given = Mapping[str, Any]
"""What a person passes to `Pipeline.sample`, by argument name."""
Read = Callable[[ImageSource, Tokenizer], Iterator[Any]]
"""Batches of images of a source, at the size of a tokenizer, with the crops of the run."""
EncodeCrops = Callable[[str, Callable[[Tensor], Tensor], Tensor], dict[str, np.ndarray]]
"""Encodes images (B, crops, C, H, W) with a function (B, C, H, W) -> (B, T), to cache columns of a name."""


@dataclass(frozen=True)
class RunData:
    """The data of a run, and what its settings say about conditions."""

    data: DataConfig
    columns: ConditionDataConfig
    recipe: CacheRecipe
    train: ImageSource
    tokenizer: Tokenizer
    resumed: bool = False
    """Whether the run goes on, with the settings that it was started with."""

    def is_set(self, option: str) -> bool:
        """Whether an option has another value than its default, which stored settings hold too."""
        own = ((part, field) for part in (self.columns, self.recipe) for field in fields(part))
        return any(getattr(part, field.name) != field.default for part, field in own if field.name == option)


class ConditionLoader(ABC):
    """Loads the values of one condition."""

    kind: ClassVar[str]
    options: ClassVar[tuple[str, ...]] = ()
    """Options of a run that have no effect without this condition."""

    def __init__(self, config: Any, tokenizer: Tokenizer, folder: Path | None = None) -> None:
        """A loader for a trained prior.

        Args:
            config: the condition's settings in the prior's configuration.
            folder: of the model, which may hold another tokenizer for conditioning images.
        """
        self.config, self.tokenizer, self.folder = config, tokenizer, folder

    @classmethod
    @abstractmethod
    def missing(cls, run: RunData) -> str:
        """What the data of a run lack for this condition; empty when they have it."""

    @classmethod
    @abstractmethod
    def from_run(cls, run: RunData) -> ConditionLoader:
        """The loader for a prior that is to be trained on the data of a run."""

    def open(self, data: DataConfig, columns: ConditionDataConfig) -> None:
        """Open what this condition reads besides the images and their captions. Raises ConfigError or DataError."""
        del data, columns  # most conditions read nothing else

    def tokenizers(self) -> list[Tokenizer]:
        """The tokenizers whose codes this condition reads."""
        return []

    def cache_columns(self, source: ImageSource) -> tuple[CacheColumn, ...]:
        """What the token cache of a source holds for this condition, besides the built-in labels and captions."""
        return ()

    def batches(self, source: ImageSource, read: Read, precision: str) -> Iterator[Any]:
        """Batches of images that this condition reads, row by row alongside those of the source; None without any."""
        return itertools.repeat(None)

    def encode(self, texts: Sequence[str], batch: Any, encode_crops: EncodeCrops) -> dict[str, np.ndarray]:
        """The cache columns of one batch: from its captions, and from what `batches` gave."""
        return {}

    @abstractmethod
    def values(self, given: Given) -> list[Any]:
        """The values that a person gave, one per image in turn; empty for unconditional images.

        Raises:
            ConfigError: for values that the prior does not know.
        """

    @abstractmethod
    def tensor(self, values: Sequence[Any]) -> Tensor:
        """The condition (B, ...) of B images from as many values."""

    def name(self, value: Any) -> str | None:
        """A value in words, for captions and records."""
        return None


def as_list(given: Any, name: str) -> list[Any]:
    """One value or several, as a list; nothing at all is an empty list. Raises ConfigError for an empty one."""
    if given is None:
        return []
    if isinstance(given, (str, bytes, int, float, Enum, np.generic, Path, Image.Image)):
        return [given]
    if isinstance(given, (Tensor, np.ndarray)) and given.ndim == 0:
        return [given.item()]
    several = given.tolist() if isinstance(given, Tensor) and given.ndim == 1 else list(given)
    if not several:
        raise ConfigError(f"{name} is an empty list: give at least one value, or leave it out")
    return several


def given_values(loaders: Sequence[ConditionLoader], given: Given) -> dict[str, list[Any]]:
    """What a person gave for each condition of a prior. Raises ConfigError for conditions that it does not have."""
    kinds = [loader.kind for loader in loaders]
    known = {*kinds, "text"} if "features" in kinds else {*kinds}
    unknown = [kind for kind, value in given.items() if value is not None and kind not in known]
    if unknown:
        takes = ", ".join(kinds) or "nothing"
        raise ConfigError(f"this prior is conditioned on {takes}, not on {', '.join(unknown)}")
    return {loader.kind: loader.values(given) for loader in loaders}


def to_condition(loaders: Sequence[ConditionLoader], values: Given) -> Condition:
    """The condition of B images, from B values of each kind."""
    return Condition(**{own.kind: own.tensor(values[own.kind]) for own in loaders if own.kind in values})


def names_of(loaders: Sequence[ConditionLoader], values: Given, n: int) -> list[dict[str, str | None]]:
    """Label and caption of each of n images, in words."""
    rows = [
        {own.kind: own.name(values[own.kind][i]) for own in loaders if own.kind in values} for i in range(n)
    ]
    return [{"label": row.get("label"), "text": row.get("text") or row.get("features")} for row in rows]
