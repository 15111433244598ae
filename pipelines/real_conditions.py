"""Conditions of samples like those of real images, so that the two sets can be compared."""

from __future__ import annotations

import logging
from math import modf, sqrt
from typing import Any

import numpy as np

from ..data.config import ConditionDataConfig, DataConfig
from ..data.source import ImageSource
from ..errors import DataError
from .conditioning_images import ImageLoader
from .sampling import Sampling

logger = logging.getLogger("imgtf")

GOLDEN = (sqrt(5) - 1) / 2


class RealConditions:
    """Conditions like those of real images: their labels in their proportions, their captions, their images."""

    def __init__(self, sampling: Sampling, source: ImageSource) -> None:
        """The conditions of the images of `source`; loaders of conditioning images must have been opened.

        Raises:
            DataError: the images lack the captions that the prior reads.
        """
        self.source = source
        self.kinds = sampling.prior.config.condition_kinds
        self.class_names = sampling.prior.config.class_names
        self.conditioning = next((own for own in sampling.loaders if isinstance(own, ImageLoader)), None)
        self.rows = self._rows()

    def _rows(self) -> np.ndarray:
        """The rows that have all conditions, sorted by class."""
        names = self.source.class_names
        labels = [self.source.label(i) for i in range(len(self.source))]
        known = np.array([-1 if n is None or names[n] not in self.class_names else n for n in labels])
        rows = np.argsort(known, kind="stable")
        if "label" in self.kinds:
            rows = self._labelled(rows, known)
        if {"text", "features"} & set(self.kinds):
            rows = rows[[bool(self.source.text(int(i))) for i in rows]]
            if not len(rows):
                raise DataError(
                    f"{self.source.name}: no captions in {self.source.split}, which this prior reads"
                )
        return rows

    def _labelled(self, rows: np.ndarray, known: np.ndarray) -> np.ndarray:
        labelled = rows[known[rows] >= 0]
        if not len(labelled):
            logger.info("labels: the reference has none that the prior knows; all classes take turns")
            return rows
        if len(labelled) < len(rows):
            logger.info(
                "labels: %d images of the reference have none that the prior knows", len(rows) - len(labelled)
            )
        return labelled

    def of(self, index: int) -> dict[str, Any]:
        """The conditions of sample `index`, by argument name of `Sampling.stream`.

        Multiples of the golden ratio modulo 1 are spread evenly however many there are: the classes of the first n
        samples have the proportions of the real ones, to within a few.
        """
        row = int(self.rows[int(modf((index + 0.5) * GOLDEN)[0] * len(self.rows))])
        values: dict[str, Any] = {}
        if "label" in self.kinds:
            label = self.source.label(row)
            name = None if label is None else self.source.class_names[label]
            values["label"] = (
                name if name in self.class_names else self.class_names[index % len(self.class_names)]
            )
        if {"text", "features"} & set(self.kinds):
            values["text"] = self.source.text(row)
        if self.conditioning is not None:
            source = self.conditioning.sources.get(self.source.split, self.source)
            values["image"] = source.image(row)
        return values

    def of_batch(self, indices: range) -> dict[str, Any]:
        """The conditions of a batch as `Sampling.stream` takes them: sample i gets value i modulo their number."""
        turned = [self.of(i) for i in sorted(indices, key=lambda i: i % len(indices))]
        return {kind: [own[kind] for own in turned] for kind in turned[0]}


def open_conditioning(sampling: Sampling, data: DataConfig, columns: ConditionDataConfig) -> None:
    """Open the conditioning images of a data set. Raises ConfigError where their column is not named."""
    for loader in sampling.loaders:
        loader.open(data, columns)
