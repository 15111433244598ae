"""Images to codes on disk, once, so that the prior never decodes an image."""

from __future__ import annotations

import hashlib
import itertools
import logging
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from ..data.codes import CodesInfo, ending, open_codes, write_codes
from ..data.config import DataConfig, check_views, preprocessing, worker_count
from ..data.images import BadImages, Views
from ..data.loader import eval_batches
from ..data.source import ImageSource
from ..errors import CheckpointError
from ..tokenizer.codec import Codec, codec_precision
from ..tokenizer.model import Tokenizer
from .conditions import NOTHING, Beside, encode_sources

logger = logging.getLogger("imgtf")


def describe(
    tokenizer: Tokenizer,
    source: ImageSource,
    config: DataConfig,
    *,
    flips: bool,
    views: int = 1,
    beside: Beside = NOTHING,
    precision: str = "auto",
) -> CodesInfo:
    """What the codes of this source by this tokenizer in this precision would be: the identity of a cache."""
    return CodesInfo(
        tokenizer_sha256=tokenizer.weights_sha256(),
        source=source.name,
        split=source.split,
        fingerprint=source.fingerprint,
        grid=tokenizer.config.grid,
        codebook_size=tokenizer.config.codebook_size,
        class_names=source.class_names,
        flips=flips,
        views=views,
        image_size=tokenizer.config.image_size,
        preprocessing=preprocessing(config, views),
        precision=codec_precision(precision, tokenizer),
        **beside.codes_info(),
    )


def find_codes(folder: Path, wanted: CodesInfo) -> Path | None:
    """The folder of a cache under `folder` that fits, or None. Damaged ones are passed over with a warning."""
    for candidate in sorted(folder.glob("*/cache.json")):
        try:
            codes = open_codes(candidate.parent)
        except CheckpointError as error:
            logger.warning("%s; it will not be used", error)
            continue
        if codes.fits(wanted):
            return candidate.parent
    return None


def encode(
    tokenizer: Tokenizer,
    source: ImageSource,
    config: DataConfig,
    folder: Path,
    *,
    flips: bool,
    views: int = 1,
    beside: Beside = NOTHING,
    batch_size: int = 64,
    precision: str = "auto",
) -> Path:
    """Encodes every image of the source, and what is beside it, into `folder/<split>-<fingerprint>`; returns that.

    Images are cropped in the centre. Broken images are left out under the rule of `config.bad_images`.
    Of several `views` the others are crops at random places, of random size as the config says, the same every time;
    what lies beside is cropped at the same places. With `flips`, each is encoded a second time mirrored.

    Raises:
        ConfigError: several views without random crops.
    """
    check_views(config, views)
    info = describe(tokenizer, source, config, flips=flips, views=views, beside=beside, precision=precision)
    name = re.sub(r"\W+", "-", source.split).strip("-")
    target = folder / f"{name}-{source.fingerprint[:8]}{_suffix(info)}"
    pictures = views * (1 + flips)
    each = f", {pictures} pictures of each" if pictures > 1 else ""
    logger.info("encoding %s: %d images%s, kept in %s", source.split, len(source), each, target)
    write_codes(target, info, _rows(tokenizer, source, config, info, beside, batch_size, precision))
    return target


def _rows(
    tokenizer: Tokenizer,
    source: ImageSource,
    config: DataConfig,
    info: CodesInfo,
    beside: Beside,
    batch_size: int,
    precision: str,
) -> Iterator[dict[str, Any]]:
    images, coder = _dataset(tokenizer, source, config, info.views), Codec(tokenizer, precision)
    read = None
    if beside.tokenizer is not None:
        read = partial(encode_sources, Codec(beside.tokenizer, precision), size=beside.size)
    bad_images = BadImages(len(images), config.bad_images)
    with tqdm(total=len(source), desc=f"encode {source.split}", unit="image", disable=None) as bar:
        for batch, other in zip(
            eval_batches(images, batch_size, workers=worker_count(config)),
            _source_batches(beside, config, info.views, batch_size),
            strict=False,
        ):
            bad_images.note([*batch["bad"], *(other["bad"] if other else ())])
            columns = _codes("codes", coder.encode, batch["image"].to(coder.device), info.flips)
            if other and read is not None:
                columns |= _codes("source", read, other["image"], info.flips)
            texts = [source.text(index) or "" for index in batch["index"].tolist()]
            if beside.text is not None:
                columns["features"] = beside.text(texts).cpu().numpy()
            for row, index in enumerate(batch["index"].tolist()):
                if not batch["bad"][row] and not (other and other["bad"][row]):
                    own = {name: values[row] for name, values in columns.items()}
                    yield own | {"label": source.label(index), "text": texts[row]}
            bar.update(len(texts))


def _suffix(info: CodesInfo) -> str:
    """Of the folder's name: caches of the same images with other things beside them lie side by side."""
    views = f" {info.views} {info.preprocessing}" if info.views > 1 else ""
    beside = f"{info.source_of} {info.image_sha256} {info.text_encoder}{views}"
    return "-" + hashlib.sha256(beside.encode()).hexdigest()[:4] if beside.strip() else ""


def _dataset(tokenizer: Tokenizer, source: ImageSource, config: DataConfig, views: int) -> Views:
    return Views(source, tokenizer.config.image_size, tokenizer.config.channels, config, views)


def _source_batches(
    beside: Beside, config: DataConfig, views: int, batch_size: int
) -> Iterator[dict[str, Any] | None]:
    """Batches of the source pictures beside those of the images; None for ever where there are none."""
    if beside.sources is None or beside.tokenizer is None:
        return itertools.repeat(None)
    images = _dataset(beside.tokenizer, beside.sources, config, views)
    return eval_batches(images, batch_size, workers=worker_count(config))


def _codes(name: str, encode: Callable[[Tensor], Tensor], pixels: Tensor, flips: bool) -> dict[str, Any]:
    """Codes of pictures (B, views, C, H, W) by column, (B, T) each: `name`, `name_1` and so on, with flips also
    `name_flipped`, `name_1_flipped`."""
    columns = {}
    for view in range(pixels.shape[1]):
        for mirrored in (False, True)[: 1 + flips]:
            way = pixels[:, view].flip(-1) if mirrored else pixels[:, view]
            columns[name + ending(view, mirrored)] = encode(way).flatten(1).cpu().numpy()
    return columns
