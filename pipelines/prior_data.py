"""The data of a prior: its image sources, the loaders of its conditions, and its token caches."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..data.codes import CodesDataset
from ..data.config import AugmentationConfig, ConditionDataConfig, DataConfig
from ..data.source import ImageSource, open_source
from ..prior.recipe import CacheRecipe
from ..tokenizer.model import Tokenizer
from .condition_loader import ConditionLoader, RunData
from .conditions import choose_conditions
from .encode import CacheSettings, cached_codes
from .files import check_writable
from .processes import ALONE, Processes
from .settings import CACHE_CLASSES, Settings
from .together import first_before_others

logger = logging.getLogger("imgtf")

CODES_FOLDER = "codes"
"""In a model folder: the token caches."""


@dataclass(frozen=True)
class PriorData:
    """What a prior is trained and evaluated on."""

    train: ImageSource
    held_out: ImageSource
    loaders: list[ConditionLoader]
    settings: Settings

    def sections(self) -> tuple[Any, ...]:
        """The settings that describe the data and its token caches."""
        return tuple(self.settings.part(cls) for cls in CACHE_CLASSES)

    def codes(
        self, folder: Path, tokenizer: Tokenizer, precision: str, seed: int = 0, processes: Processes = ALONE
    ) -> tuple[CodesDataset, CodesDataset | None]:
        """The cached codes to train on and those to evaluate on, encoded now where no cache in `folder` fits.

        Args:
            processes: all that call this; they share the encoding.
        """
        data, augmentation = self.settings.part(DataConfig), self.settings.part(AugmentationConfig)
        crops = self.settings.part(CacheRecipe).crops_per_image
        training = CacheSettings.training(data, augmentation, crops, precision)
        encoded = partial(cached_codes, folder, tokenizer, loaders=self.loaders, processes=processes)
        train = encoded(self.train, training, seed=seed)
        if not len(self.held_out):
            return train, None
        held_out = CacheSettings.held_out(data, precision)
        return train, encoded(self.held_out, held_out)


def open_prior_data(settings: Settings, tokenizer: Tokenizer, resumed: bool = False) -> PriorData:
    """Open the images of a run and choose its conditions.

    Raises:
        ConfigError: for conditions that the data or other options do not provide, or, unless the run is resumed, for
            options of other conditions.
        DataError: for data that cannot be opened.
    """
    data, columns = settings.part(DataConfig), settings.part(ConditionDataConfig)
    train, held_out = open_source(data)
    if len(train.class_names) == 1:
        logger.warning("only one class (%s): the prior is not conditioned on labels", train.class_names[0])
    run = RunData(data, columns, settings.part(CacheRecipe), train, tokenizer, resumed)
    return PriorData(train, held_out, choose_conditions(run), settings)


def encode_data(
    model: Path, settings: Settings, *, out: Path | None = None, precision: str = "auto", device: str = "auto",
    processes: Processes = ALONE,
) -> list[Path]:  # fmt: skip
    """Write the token caches that `imgtf prior train` looks for with the same settings; return their folders.

    Args:
        out: folder of the caches; `codes` in the model's folder by default.
        processes: all that call this; they share the encoding.
    """
    folder = out or model / CODES_FOLDER
    check_writable(folder)
    tokenizer = Tokenizer.from_pretrained(model / "tokenizer", processes.device(device))
    # The first process may download the data, or a text encoder.
    data = first_before_others(processes, lambda: open_prior_data(settings, tokenizer))
    codes = data.codes(folder, tokenizer, precision, processes=processes)
    return [split.folder for split in codes if split is not None]
