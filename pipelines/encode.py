"""Images to codes on disk, once, so that training the prior never decodes an image."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..data.codes import CodesDataset, CodesInfo, column_suffix, open_codes, write_codes
from ..data.config import AugmentationConfig, DataConfig, check_crops, flips, preprocessing, worker_count
from ..data.images import BadImages, CropsDataset
from ..data.loader import eval_batches
from ..data.parts import PartialCodes, Place
from ..data.source import ImageSource
from ..data.stream import Position
from ..data.stream_images import ordered_batches
from ..errors import CheckpointError
from ..runtime.progress import Bar
from ..tokenizer.codec import Codec, codec_precision
from ..tokenizer.model import Tokenizer
from .codes_names import present_names, renamed
from .condition_loader import ConditionLoader
from .processes import ALONE, Processes
from .together import together

logger = logging.getLogger("imgtf")

BATCH_SIZE = 64


@dataclass(frozen=True)
class CacheSettings:
    """Which crops and flips of each image a cache holds, and the precision that encodes them."""

    data: DataConfig
    augmentation: AugmentationConfig
    flip: bool = False
    """Also the mirrored image."""
    crops: int = 1
    """The centre crop, and random or shifted crops that are the same every time."""
    precision: str = "auto"

    @classmethod
    def training(
        cls, data: DataConfig, augmentation: AugmentationConfig, crops: int, precision: str
    ) -> CacheSettings:
        """The cache that a prior is trained on. Raises ConfigError for several crops that would be the same."""
        check_crops(augmentation, crops)
        if crops == 1 and augmentation.crop != "centre":
            logger.warning(
                "crop %s: with one crop of each image, the prior sees the centre crop; --crops-per-image 8 takes more",
                augmentation.crop,
            )
        return cls(data, augmentation, flips(data, augmentation), crops, precision)

    @classmethod
    def held_out(cls, data: DataConfig, precision: str) -> CacheSettings:
        """The cache that a prior is evaluated on: the centre crop of each image."""
        return cls(data, AugmentationConfig(), precision=precision)


def cached_codes(
    folder: Path, tokenizer: Tokenizer, source: ImageSource, settings: CacheSettings,
    loaders: Sequence[ConditionLoader] = (), *, seed: int = 0, processes: Processes = ALONE,
) -> CodesDataset:  # fmt: skip
    """The codes of a source from a cache under `folder`, encoded now where no cache fits.

    Args:
        processes: all that call this; they share the encoding.
    """
    with together(processes) as work:
        wanted = describe_cache(tokenizer, source, settings, loaders)
        # Only one process looks, so that all do the same.
        own = _find(folder, wanted, tokenizer, loaders) if processes.is_first else None
        found = work.meet(own)[0]
    if found is None:
        found = encode(folder, tokenizer, source, settings, loaders, processes)
    return open_codes(found, flip=settings.flip, crops=settings.crops, seed=seed)


def _find(
    folder: Path, wanted: CodesInfo, tokenizer: Tokenizer, loaders: Sequence[ConditionLoader]
) -> Path | None:
    return find_cache(folder, wanted) or find_cache(folder, wanted, present_names(tokenizer, loaders))


def describe_cache(
    tokenizer: Tokenizer,
    source: ImageSource,
    settings: CacheSettings,
    loaders: Sequence[ConditionLoader] = (),
) -> CodesInfo:
    """The identity of a cache: two caches with the same are interchangeable."""
    return CodesInfo(
        tokenizer_sha256=tokenizer.codes_sha256(),
        source=source.name,
        split=source.split,
        fingerprint=source.fingerprint,
        grid=tokenizer.config.grid,
        codebook_size=tokenizer.config.codebook_size,
        class_names=source.class_names,
        flips=settings.flip,
        crops=settings.crops,
        image_size=tokenizer.config.image_size,
        preprocessing=preprocessing(settings.data, settings.augmentation, settings.crops),
        precision=codec_precision(settings.precision, tokenizer),
        columns=tuple(column for loader in loaders for column in loader.cache_columns(source)),
    )


def find_cache(folder: Path, wanted: CodesInfo, names: Mapping[str, str] = {}) -> Path | None:
    """The folder of a cache under `folder` that fits, or None. Damaged caches are skipped with a warning.

    Args:
        names: present names of tokenizers, by those that older caches hold.
    """
    for candidate in sorted(folder.glob("*/cache.json")):
        try:
            codes = open_codes(candidate.parent)
        except CheckpointError as error:
            logger.warning("%s; it will not be used", error)
            continue
        codes.info = renamed(codes.info, names)
        if codes.fits(wanted):
            return candidate.parent
    return None


def encode(
    folder: Path,
    tokenizer: Tokenizer,
    source: ImageSource,
    settings: CacheSettings,
    loaders: Sequence[ConditionLoader] = (),
    processes: Processes = ALONE,
) -> Path:
    """Encode every image of a source, and its conditions, into `folder/<split>-<hash>`; return that folder.

    Broken images are left out under the rule of `bad_images`. Conditioning images are cropped and flipped like the
    images they belong to. Several processes take the batches of one in turns, and the first writes the same files.
    """
    info = describe_cache(tokenizer, source, settings, loaders)
    name = re.sub(r"\W+", "-", source.split).strip("-")
    target = folder / f"{name}-{source.fingerprint[:8]}{_suffix(info)}"
    per_image = info.crops * (1 + info.flips)
    each = f", {per_image} crops and flips of each" if per_image > 1 else ""
    logger.info("encoding %s: %s%s, into %s", source.split, source.amount, each, target)
    with together(processes) as work:
        cache = PartialCodes(target, info) if source.stream is not None and processes.is_first else None
        if cache and cache.rows:
            logger.info("%s: goes on after the %d rows that are complete", target, cache.rows)
        start = work.meet(cache.next if cache else (0, 0))[0]
        own = _batches(tokenizer, source, settings, loaders, start, processes)
        rows = _rows(work.gathered(own), source, settings)
        if cache:
            cache.write(rows)
        elif processes.is_first:
            write_codes(target, info, (row for row, _ in rows))
        else:
            list(rows)  # none, but this encodes the batches of this process
    return target


@dataclass(frozen=True)
class _Batch:
    """What one batch adds to a cache."""

    columns: dict[str, np.ndarray]
    labels: list[int]
    texts: list[str]
    places: list[Place]
    """Of the sample after each, in a stream."""
    bad: list[list[str]]
    """Why images, and conditioning images, cannot be read; "" for those that can."""


def _batches(
    tokenizer: Tokenizer, source: ImageSource, settings: CacheSettings, loaders: Sequence[ConditionLoader],
    start: Place, processes: Processes,
) -> Iterator[_Batch]:  # fmt: skip
    """The encoded batches of this process, from a place of a stream on."""
    codec = Codec(tokenizer, settings.precision)
    encode_crops = partial(_encode_crops, flip=settings.flip)
    read = partial(_read, settings=settings, start=start, processes=processes)
    others = [loader.batches(source, read, settings.precision) for loader in loaders]
    for batch, *own in zip(read(source, tokenizer), *others, strict=False):
        texts, labels = batch["text"], batch["label"].tolist()
        columns = encode_crops("codes", lambda x: codec.encode(x.to(codec.device)), batch["image"])
        for loader, images in zip(loaders, own, strict=True):
            columns |= loader.encode(texts, images, encode_crops)
        bad = [batch["bad"], *(other["bad"] for other in own if other is not None)]
        yield _Batch(columns, labels, texts, [_place(batch, row) for row in range(len(texts))], bad)


def _rows(
    batches: Iterator[_Batch], source: ImageSource, settings: CacheSettings
) -> Iterator[tuple[dict[str, Any], Place]]:
    """The rows of a cache, each with the place of the next sample of a stream; without those of broken images."""
    bad_images = BadImages(len(source), settings.data.bad_images, source.stream is not None)
    with Bar(f"encode {source.split}", len(source), "image") as bar:
        for batch in batches:
            bad_images.note([reason for column in batch.bad for reason in column])
            for row, reasons in enumerate(zip(*batch.bad, strict=True)):
                if not any(reasons):
                    values = {name: column[row] for name, column in batch.columns.items()}
                    values |= {"label": batch.labels[row], "text": batch.texts[row]}
                    yield values, batch.places[row]
            done = len(batch.texts)
            bar.grow(max(0, bar.done + done - bar.total))  # the number of a stream's images is not known
            bar.update(done)


def _place(batch: dict[str, Any], row: int) -> Place:
    if "position" not in batch:
        return (0, 0)
    position = Position(*batch["position"][row].tolist())
    return position.shard, position.row


def _read(
    source: ImageSource, tokenizer: Tokenizer, settings: CacheSettings, start: Place, processes: Processes
) -> Iterator[Any]:
    """Batches of this process, images (B, crops, C, H, W) at the size of a tokenizer; of a stream, from a place on."""
    config = tokenizer.config
    images = CropsDataset(
        source, config.size, config.channels, settings.data, settings.augmentation, settings.crops
    )
    workers = worker_count(settings.data)
    rank, world = processes.rank, processes.world
    if source.stream is not None:
        return ordered_batches(images, BATCH_SIZE, workers, *start, rank=rank, world=world)
    return eval_batches(images, BATCH_SIZE, rank=rank, world=world, workers=workers)


def _encode_crops(
    name: str, encode: Callable[[Tensor], Tensor], pixels: Tensor, flip: bool
) -> dict[str, np.ndarray]:
    """Codes of images (B, crops, C, H, W) by column, (B, T) each: `name`, `name_flipped`, `name_1`, ..."""
    columns = {}
    for crop in range(pixels.shape[1]):
        for mirrored in (False, True)[: 1 + flip]:
            images = pixels[:, crop].flip(-1) if mirrored else pixels[:, crop]
            columns[name + column_suffix(crop, mirrored)] = encode(images).flatten(1).cpu().numpy()
    return columns


def _suffix(info: CodesInfo) -> str:
    """End of the folder's name: caches of the same images with different conditions or crops lie side by side."""
    crops = f"{info.crops} {info.preprocessing}" if info.crops > 1 else ""
    conditions = " ".join(f"{column.name} {column.origin}" for column in info.columns)
    text = f"{conditions} {crops}".strip()
    return "-" + hashlib.sha256(text.encode()).hexdigest()[:4] if text else ""
