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
    """The centre crop, and random crops that are the same every time."""
    precision: str = "auto"

    @classmethod
    def training(
        cls, data: DataConfig, augmentation: AugmentationConfig, crops: int, precision: str
    ) -> CacheSettings:
        """The cache that a prior is trained on. Raises ConfigError for several crops that would be the same."""
        check_crops(augmentation, crops)
        return cls(data, augmentation, flips(data, augmentation), crops, precision)

    @classmethod
    def held_out(cls, data: DataConfig, precision: str) -> CacheSettings:
        """The cache that a prior is evaluated on: the centre crop of each image."""
        return cls(data, AugmentationConfig(), precision=precision)


def cached_codes(
    folder: Path,
    tokenizer: Tokenizer,
    source: ImageSource,
    settings: CacheSettings,
    loaders: Sequence[ConditionLoader] = (),
    *,
    seed: int = 0,
) -> CodesDataset:
    """The codes of a source from a cache under `folder`, encoded now where no cache fits."""
    wanted = describe_cache(tokenizer, source, settings, loaders)
    found = find_cache(folder, wanted) or find_cache(folder, wanted, present_names(tokenizer, loaders))
    if found is None:
        found = encode(folder, tokenizer, source, settings, loaders)
    return open_codes(found, flip=settings.flip, crops=settings.crops, seed=seed)


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
) -> Path:
    """Encode every image of a source, and its conditions, into `folder/<split>-<hash>`; return that folder.

    Broken images are left out under the rule of `bad_images`. Conditioning images are cropped and flipped like the
    images they belong to.
    """
    info = describe_cache(tokenizer, source, settings, loaders)
    name = re.sub(r"\W+", "-", source.split).strip("-")
    target = folder / f"{name}-{source.fingerprint[:8]}{_suffix(info)}"
    per_image = info.crops * (1 + info.flips)
    each = f", {per_image} crops and flips of each" if per_image > 1 else ""
    logger.info("encoding %s: %s%s, into %s", source.split, source.amount, each, target)
    if source.stream is None:
        write_codes(target, info, (row for row, _ in _rows(tokenizer, source, settings, loaders)))
        return target
    cache = PartialCodes(target, info)
    if cache.rows:
        logger.info("%s: goes on after the %d rows that are complete", target, cache.rows)
    cache.write(_rows(tokenizer, source, settings, loaders, cache.next))
    return target


def _rows(
    tokenizer: Tokenizer,
    source: ImageSource,
    settings: CacheSettings,
    loaders: Sequence[ConditionLoader],
    start: Place = (0, 0),
) -> Iterator[tuple[dict[str, Any], Place]]:
    """The rows of a cache, each with the place of the next sample of a stream. `start`: the first place."""
    codec = Codec(tokenizer, settings.precision)
    encode_crops = partial(_encode_crops, flip=settings.flip)
    read = partial(_read, settings=settings, start=start)
    bad_images = BadImages(len(source), settings.data.bad_images, source.stream is not None)
    others = [loader.batches(source, read, settings.precision) for loader in loaders]
    with Bar(f"encode {source.split}", len(source), "image") as bar:
        for batch, *own in zip(read(source, tokenizer), *others, strict=False):
            texts = batch["text"]
            columns = encode_crops("codes", lambda x: codec.encode(x.to(codec.device)), batch["image"])
            for loader, images in zip(loaders, own, strict=True):
                columns |= loader.encode(texts, images, encode_crops)
            bad = _bad(batch, own, bad_images)
            for row, label in enumerate(batch["label"].tolist()):
                if not bad[row]:
                    values = {name: column[row] for name, column in columns.items()}
                    yield values | {"label": label, "text": texts[row]}, _place(batch, row)
            bar.grow(
                max(0, bar.done + len(texts) - bar.total)
            )  # the number of a stream's images is not known
            bar.update(len(texts))


def _place(batch: dict[str, Any], row: int) -> Place:
    if "position" not in batch:
        return (0, 0)
    position = Position(*batch["position"][row].tolist())
    return position.shard, position.row


def _read(
    source: ImageSource, tokenizer: Tokenizer, settings: CacheSettings, start: Place = (0, 0)
) -> Iterator[Any]:
    """Batches of images (B, crops, C, H, W) at the size of a tokenizer; of a stream, from a place on."""
    config = tokenizer.config
    images = CropsDataset(
        source, config.size, config.channels, settings.data, settings.augmentation, settings.crops
    )
    workers = worker_count(settings.data)
    if source.stream is not None:
        return ordered_batches(images, BATCH_SIZE, workers, *start)
    return eval_batches(images, BATCH_SIZE, workers=workers)


def _bad(batch: dict[str, Any], others: Sequence[Any], bad_images: BadImages) -> list[bool]:
    """Which rows have a broken image, their own or a conditioning image."""
    reasons = [batch["bad"], *(other["bad"] for other in others if other is not None)]
    bad_images.note([reason for column in reasons for reason in column])
    return [any(row) for row in zip(*reasons, strict=True)]


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
