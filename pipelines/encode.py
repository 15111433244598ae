"""Images to codes on disk, once, so that the prior never decodes an image."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..data.codes import CodesInfo, open_codes, write_codes
from ..data.config import DataConfig, preprocessing, worker_count
from ..data.images import BadImages, ImageDataset
from ..data.loader import eval_batches
from ..data.source import ImageSource
from ..errors import CheckpointError
from ..tokenizer.coder import Coder, coding_precision
from ..tokenizer.model import Tokenizer

logger = logging.getLogger("imgtf")


def describe(
    tokenizer: Tokenizer, source: ImageSource, config: DataConfig, flips: bool, precision: str = "auto"
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
        image_size=tokenizer.config.image_size,
        preprocessing=preprocessing(config),
        precision=coding_precision(precision, tokenizer),
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
    batch_size: int = 64,
    precision: str = "auto",
) -> Path:
    """Encodes every image of the source into `folder/<split>-<fingerprint>` and returns that folder.

    Images are cropped in the centre. Broken images are left out under the rule of `config.bad_images`.
    With `flips`, each image is encoded a second time mirrored.
    """
    info = describe(tokenizer, source, config, flips, precision)
    name = re.sub(r"\W+", "-", source.split).strip("-")
    target = folder / f"{name}-{source.fingerprint[:8]}"
    write_codes(target, info, _rows(Coder(tokenizer, precision), source, config, flips, batch_size))
    return target


def _rows(
    coder: Coder, source: ImageSource, config: DataConfig, flips: bool, batch_size: int
) -> Iterator[dict[str, Any]]:
    size, channels = coder.config.image_size, coder.config.channels
    images = ImageDataset(source, size, channels, config, augment=False, seed=0)
    bad_images = BadImages(len(images), config.bad_images)
    with tqdm(total=len(source), desc=f"encode {source.split}", unit="image", disable=None) as bar:
        for batch in eval_batches(images, batch_size, workers=worker_count(config)):
            bad_images.note(batch["bad"])
            pixels = batch["image"].to(coder.device)
            codes = coder.encode(pixels).flatten(1).cpu().numpy()
            mirrored = coder.encode(pixels.flip(-1)).flatten(1).cpu().numpy() if flips else codes
            for row, index in enumerate(batch["index"].tolist()):
                if not batch["bad"][row]:
                    yield {
                        "codes": codes[row],
                        "codes_flipped": mirrored[row] if flips else None,
                        "label": source.label(index),
                        "text": source.text(index),
                    }
            bar.update(len(codes))
