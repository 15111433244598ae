"""Figures of trained models on a data source, and pictures of what the tokenizer keeps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from ..data.config import DataConfig, worker_count
from ..data.decode import load_image
from ..data.grid import draw_grid
from ..data.image import is_deep, to_pil, transform
from ..data.images import BadImages, ImageDataset
from ..data.loader import eval_batches
from ..data.source import ImageSource
from ..errors import DataError
from ..tokenizer.codec import Codec
from ..tokenizer.inception import Inception
from ..tokenizer.metrics import MetricInputs, Metrics
from ..tokenizer.model import Tokenizer
from ..tokenizer.perceptual import Perceptual

BATCH = 64


def evaluate_tokenizer(
    tokenizer: Tokenizer,
    source: ImageSource,
    data: DataConfig,
    perceptual: Perceptual | None = None,
    inception: Inception | None = None,
    precision: str = "auto",
) -> dict[str, float]:
    """Return all metrics of `tokenizer.metrics` over a source, centre-cropped to the tokenizer's image size.

    LPIPS and the Frechet distance in its features need `perceptual`, rFID needs `inception`. Images are encoded and
    decoded in `precision` and compared in float32.
    """
    _refuse_empty(source)
    config = tokenizer.config
    images = ImageDataset(source, config.image_size, config.channels, data)
    bad_images = BadImages(len(images), data.bad_images)
    inputs = MetricInputs(config.codebook_size, tokenizer.device, perceptual, inception)
    metrics, codec = Metrics(inputs), Codec(tokenizer, precision)
    for batch in eval_batches(images, BATCH, workers=worker_count(data)):
        bad_images.note(batch["bad"])
        pixels = batch["image"].to(tokenizer.device)
        metrics.update(pixels, codec(pixels))
    return {"images": float(len(source)), **metrics.compute()}


@torch.no_grad()
def reconstruct(
    tokenizer: Tokenizer, paths: Sequence[Path], out: Path, background: str, precision: str = "auto"
) -> list[Path]:
    """Writes each image beside its reconstruction as `out/NAME.png` (a second of that name as `NAME-2.png`).

    Images are brought to the tokenizer's size (shorter side, then centre crop). Where image or tokenizer are of 16 bits
    and grey, so is what is written.
    """
    coder = Codec(tokenizer, precision)
    out.mkdir(parents=True, exist_ok=True)
    written = []
    used: Counter[str] = Counter()
    for path in paths:
        config = tokenizer.config
        image = load_image(str(path), str(path))
        pixels = transform(image, config.image_size, config.channels, background)
        images = pixels[None].to(tokenizer.device)
        result = coder.decode(coder.encode(images))
        used[path.stem] += 1
        number = f"-{used[path.stem]}" if used[path.stem] > 1 else ""
        target = out / f"{path.stem}{number}.png"
        bits = 16 if config.channels == 1 and is_deep(image) else config.bit_depth
        draw_grid([to_pil(images[0], bits), to_pil(result[0], bits)], columns=2).save(target)
        written.append(target)
    return written


def _refuse_empty(source: ImageSource) -> None:
    if not len(source):
        raise DataError(
            f"{source.name}: no images in {source.split} to measure on; see --held-out and --split"
        )
