"""Samples to be judged, batch by batch: sampled from a model as they are needed, or read from a folder.

Shapes: B batch, C channels, H, W image.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from ..data.config import DataConfig
from ..data.decode import BadImage, load_image
from ..data.image import to_pixels, transform
from ..data.source import open_source
from ..errors import DataError
from ..evaluation.references import ALONE, Progress, Share
from .real_conditions import RealConditions
from .request import Progress as CodesProgress
from .request import Sample, sampling_settings
from .sampling import Sampling
from .write import RECORD_FILE

READ_AT_ONCE = 64


@dataclass(frozen=True)
class SampleBatch:
    """Some samples."""

    indices: list[int]
    """Numbers of the samples in their set."""
    pixels: Tensor
    """(B, C, H, W) in [-1, 1]."""
    labels: list[str | None]
    """The classes that they should show."""


class SampleSet(Protocol):
    """Samples that are judged."""

    def __len__(self) -> int: ...
    def batches(self, share: Share = ALONE, progress: Progress | None = None) -> Iterator[SampleBatch]: ...
    def image(self, index: int) -> Image.Image: ...
    def describe(self) -> dict[str, Any]: ...


class GeneratedSamples:
    """Samples of a model, made when they are asked for; sample i is always the same picture."""

    def __init__(
        self,
        sampling: Sampling,
        conditions: RealConditions,
        n: int,
        *,
        seed: int = 0,
        first: int = 0,
        batch_size: int | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.sampling, self.conditions, self.n, self.seed, self.first = sampling, conditions, n, seed, first
        self.given = dict(settings or {})
        self.settings = sampling_settings(sampling.prior.config, **self.given)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return self.n

    def batches(self, share: Share = ALONE, progress: Progress | None = None) -> Iterator[SampleBatch]:
        # Free memory differs from process to process; the batches must not.
        own = self.batch_size or self.sampling.auto_batch_size(self.n, self.settings, share.world)
        size = min(share.gather(own))
        last = self.first + self.n
        for start in range(self.first + share.rank * size, last, share.world * size):
            yield self._batch(range(start, min(start + size, last)), share.world, progress)

    def _batch(self, indices: range, world: int, progress: Progress | None) -> SampleBatch:
        tokens = self.sampling.prior.config.tokens

        def report(codes: int) -> None:
            if progress is not None:
                progress("samples", codes / tokens * world, self.n)

        samples = list(self._stream(indices, report))
        channels = self.sampling.tokenizer.config.channels
        pixels = torch.stack([_pixels(sample.image, channels) for sample in samples])
        return SampleBatch(list(indices), pixels, [sample.label for sample in samples])

    def _stream(self, indices: range, progress: CodesProgress | None = None) -> Iterator[Sample]:
        values = self.conditions.of_batch(indices) | self.given
        n = len(indices)
        return self.sampling.stream(
            n, seed=self.seed, first=indices[0], batch_size=n, progress=progress, **values
        )

    def image(self, index: int) -> Image.Image:
        """Sample one image again."""
        return next(self._stream(range(index, index + 1))).image

    def describe(self) -> dict[str, Any]:
        return {
            "n": self.n, "of": "the model", "seed": self.seed, "first": self.first,
            "settings": asdict(self.settings), "precision": self.sampling.precision,
            "tokenizer_sha256": self.sampling.tokenizer.weights_sha256(),
            "prior_sha256": self.sampling.prior_sha256(),
        }  # fmt: skip


def _pixels(image: Image.Image, channels: int) -> Tensor:
    """A decoded image as (C, H, W) in [-1, 1]."""
    pixels = torch.from_numpy(to_pixels(image, channels).copy()).permute(2, 0, 1)
    return pixels.float() / 127.5 - 1 if pixels.dtype == torch.uint8 else pixels * 2 - 1


class FolderSamples:
    """Images of a folder. Class folders, or the record of `imgtf sample`, say what they should show."""

    def __init__(
        self, folder: Path, size: tuple[int, int] | None, channels: int | None, data: DataConfig
    ) -> None:
        """
        Args:
            size: (H, W), to which images are resized, the largest crop of that shape in the centre; None for the
                size of the first image.
            channels: 1 or 3; None for those of the first image.

        Raises:
            DataError: the folder or its images cannot be read.
        """
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder of samples")
        self.folder, self.background = folder, data.background
        self.files = recorded_samples(folder)
        self.source = None if self.files else open_source(DataConfig(data=str(folder), held_out=0))[0]
        first = self.image(0)
        self.size = size or (first.height, first.width)
        self.channels = channels or (1 if first.mode in ("1", "L", "I;16") else 3)

    def __len__(self) -> int:
        return len(self.files) if self.source is None else len(self.source)

    def batches(self, share: Share = ALONE, progress: Progress | None = None) -> Iterator[SampleBatch]:
        for start in range(share.rank * READ_AT_ONCE, len(self), share.world * READ_AT_ONCE):
            indices = list(range(start, min(start + READ_AT_ONCE, len(self))))
            pixels = torch.stack([self._pixels(i) for i in indices])
            yield SampleBatch(indices, pixels, [self._label(i) for i in indices])
            if progress is not None:
                progress("samples", len(indices) * share.world, len(self))

    def _pixels(self, index: int) -> Tensor:
        try:
            return transform(self.image(index), self.size, self.channels, self.background)
        except BadImage as error:
            raise DataError(f"{self.folder}, image {index}: {error.why}") from None

    def _label(self, index: int) -> str | None:
        if self.source is None:
            return self.files[index][1]
        label = self.source.label(index)
        return None if label is None else self.source.class_names[label]

    def image(self, index: int) -> Image.Image:
        """Read one image."""
        if self.source is None:
            file = self.files[index][0]
            return load_image(str(file), str(file))
        return self.source.image(index)

    def describe(self) -> dict[str, Any]:
        return {"n": len(self), "of": str(self.folder)}


def recorded_samples(folder: Path) -> list[tuple[Path, str | None]]:
    """Files and labels of a folder that `imgtf sample` wrote, without its grid; none of another folder.

    Raises:
        DataError: the record is damaged.
    """
    record = folder / RECORD_FILE
    if not record.is_file():
        return []
    try:
        rows = json.loads(record.read_text(encoding="utf-8"))["images"]
        return [(folder / row["file"], row.get("label")) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{record}: not a record of samples ({error}); restore or remove it") from None
