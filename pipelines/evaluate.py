"""Metrics of a tokenizer on a data set, and images next to their reconstructions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..data.config import DataConfig, worker_count
from ..data.decode import load_image
from ..data.grid import draw_grid
from ..data.image import is_deep, to_pil, transform, upright
from ..data.images import BadImages, ImageDataset
from ..data.loader import eval_batches
from ..data.source import ImageSource
from ..errors import DataError
from ..evaluation.features import FeatureNetwork
from ..runtime.progress import Bar
from ..tokenizer.codec import Codec
from ..tokenizer.inception import Inception
from ..tokenizer.metrics import MetricInputs, Metrics
from ..tokenizer.model import Tokenizer
from ..tokenizer.perceptual import Perceptual
from ..tokenizer.tiling import decode_tiled, encode_tiled, padded
from .files import reconstruction_files
from .reconstruction_distances import ReconstructionDistances

BATCH_SIZE = 64


def evaluate_tokenizer(
    tokenizer: Tokenizer,
    source: ImageSource,
    data: DataConfig,
    perceptual: Perceptual | None = None,
    inception: Inception | None = None,
    precision: str = "auto",
    networks: Sequence[FeatureNetwork] = (),
) -> dict[str, Any]:
    """Return all metrics of `tokenizer.metrics` over a source, centre-cropped to the tokenizer's image size.

    LPIPS and the Frechet distance in its features need `perceptual`, rFID needs `inception`. For each of `networks`,
    `NAME_features` holds the distances, precision and recall of the reconstructions in its features. Images are encoded
    and decoded in `precision` and compared in float32.
    """
    _refuse_empty(source)
    config = tokenizer.config
    images = ImageDataset(source, config.size, config.channels, data)
    bad_images = BadImages(len(images), data.bad_images)
    inputs = MetricInputs(config.codebook_size, tokenizer.device, perceptual)
    metrics, codec = Metrics(inputs), Codec(tokenizer, precision)
    distances = ReconstructionDistances(networks, perceptual, inception)
    with Bar("evaluate", len(images), "image") as bar:
        for batch in eval_batches(images, BATCH_SIZE, workers=worker_count(data)):
            bad_images.note(batch["bad"])
            pixels = batch["image"].to(tokenizer.device)
            result = codec(pixels)
            metrics.update(pixels, result)
            distances.update(pixels, result.images, batch, source)
            bar.update(len(pixels))
    return {"images": float(len(source)), **metrics.compute(), **distances.compute()}


@torch.no_grad()
def reconstruct(
    tokenizer: Tokenizer,
    paths: Sequence[Path],
    out: Path,
    background: str,
    precision: str = "auto",
    *,
    full_size: bool = False,
) -> list[Path]:
    """Write each image next to its reconstruction as `out/NAME.png` (`NAME-2.png` for a second file of that name).

    Images are cropped in the centre and resized to the tokenizer's image size, or with `full_size` left as they are and
    coded in tiles. Greyscale images are written with 16 bits where the image or the tokenizer has them.
    """
    codec = Codec(tokenizer, precision)
    files = reconstruction_files(paths, out)
    with Bar("reconstruct", len(files), "image") as bar:
        for path, file in zip(paths, files, strict=True):
            pair = draw_grid(_with_reconstruction(codec, path, background, full_size), columns=2)
            out.mkdir(parents=True, exist_ok=True)  # only now: an unreadable image leaves no empty folder
            pair.save(file)
            bar.update()
    return files


def _with_reconstruction(codec: Codec, path: Path, background: str, full_size: bool) -> list[Image.Image]:
    """Return an image, at its own size or the tokenizer's, and its reconstruction."""
    config = codec.config
    image = load_image(str(path), str(path))
    size = upright(image).size[::-1] if full_size else config.size  # (H, W)
    pixels = transform(image, size, config.channels, background)[None].to(codec.device)
    bits = 16 if config.channels == 1 and is_deep(image) else config.bit_depth
    original = to_pil(pixels[0], bits)
    decoded = decode_tiled(codec, encode_tiled(codec, padded(pixels, config.factor)))
    return [original, to_pil(decoded[0, :, : size[0], : size[1]], bits)]


def _refuse_empty(source: ImageSource) -> None:
    if not len(source):
        raise DataError(
            f"{source.name}: no images in {source.split} to evaluate on; see --held-out and --split"
        )
