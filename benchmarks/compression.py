"""Compressed images: exact, as small as the likelihood says, and beside JPEG and WebP at the same LPIPS.

    TORCH_HOME=DIR python benchmarks/compression.py MODEL IMAGES [-n 100] [--picture FILE]

- The first N images of a folder are compressed, and decompressed in another process: are the codes equal?
- Bytes of the payload against the bits of `Prior.log_prob` for the same codes, and bytes of the header.
- Mean bytes and mean LPIPS beside JPEG and WebP at the quality whose mean LPIPS is closest. Single files of small
  images are mostly header, so all images are also encoded as one mosaic, where the header counts once.

All at the model's image size. LPIPS is that of the backbone in torch's cache. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from imgtf import Pipeline
from imgtf.data.grid import draw_grid
from imgtf.pipelines.compression.compress import compress, decompress_codes
from imgtf.pipelines.compression.file import Compressed
from imgtf.pipelines.prepare import prepare
from imgtf.pipelines.score_files import find_images
from imgtf.prior.decoding.stepwise import coding_order
from imgtf.tokenizer.perceptual import Perceptual, local_backbone

BEST_QUALITY = 95
FORMATS: dict[str, dict[str, Any]] = {"jpeg": {"optimize": True}, "webp": {"method": 6}}
PICTURE_ROWS = 6

Lpips = Callable[[list[Image.Image]], float]


def encoded(image: Image.Image, kind: str, quality: int) -> tuple[int, Image.Image]:
    """Return the bytes of an image in a format, and the image that they decode to."""
    file = io.BytesIO()
    image.save(file, format=kind, quality=quality, **FORMATS[kind])
    return len(file.getvalue()), Image.open(file).convert(image.mode)


def mosaic(images: list[Image.Image]) -> Image.Image:
    """Return the images side by side, ten in a row, without borders."""
    width, height = images[0].size
    sheet = Image.new(images[0].mode, (10 * width, math.ceil(len(images) / 10) * height))
    for i, image in enumerate(images):
        sheet.paste(image, (i % 10 * width, i // 10 * height))
    return sheet


def tiles(sheet: Image.Image, size: tuple[int, int], count: int) -> list[Image.Image]:
    """Return the images of a mosaic."""
    width, height = size
    corners = ((i % 10 * width, i // 10 * height) for i in range(count))
    return [sheet.crop((left, top, left + width, top + height)) for left, top in corners]


def at_like_lpips(
    images: list[Image.Image], kind: str, wanted: float, lpips: Lpips, *, together: bool
) -> tuple[dict[str, float], list[Image.Image]]:
    """Return bytes an image and LPIPS at the quality whose LPIPS is closest, and the decoded images."""

    def at(quality: int) -> tuple[dict[str, float], list[Image.Image]]:
        if together:
            size, sheet = encoded(mosaic(images), kind, quality)
            decoded = tiles(sheet, images[0].size, len(images))
        else:
            sizes, decoded = map(list, zip(*(encoded(image, kind, quality) for image in images), strict=True))
            size = sum(sizes)
        row = {"quality": quality, "bytes": size / len(images), "lpips": lpips(decoded)}
        return row | {"psnr": psnr(images, decoded)}, decoded

    low, high, results = 0, BEST_QUALITY, []  # LPIPS falls with the quality: bisect
    while low <= high:
        results.append(at((low + high) // 2))
        worse = results[-1][0]["lpips"] > wanted
        low, high = ((low + high) // 2 + 1, high) if worse else (low, (low + high) // 2 - 1)
    return min(results, key=lambda result: abs(result[0]["lpips"] - wanted))


def psnr(images: list[Image.Image], others: list[Image.Image]) -> float:
    """Return the mean PSNR in dB."""
    pairs = zip(images, others, strict=True)
    errors = [np.square(np.asarray(a, float) - np.asarray(b, float)).mean() for a, b in pairs]
    return float(np.mean([10 * np.log10(255**2 / max(error, 1e-9)) for error in errors]))


def decompressed_elsewhere(model: Path, files: list[bytes]) -> torch.Tensor:
    """Return the codes (n, h, w) of compressed files as another process decompresses them."""
    with tempfile.TemporaryDirectory() as folder:
        for i, data in enumerate(files):
            (Path(folder) / f"{i:06d}").write_bytes(data)
        subprocess.run([sys.executable, __file__, str(model), folder, "--decompress"], check=True)
        return torch.load(Path(folder) / "codes", weights_only=True)


def decompress_folder(model: Path, folder: Path) -> None:
    """Write the codes of all compressed files of a folder to its file `codes`."""
    pipeline = Pipeline.from_pretrained(model, precision="fp32")
    files = sorted(path for path in folder.iterdir() if path.name.isdigit())
    torch.save(
        torch.stack([decompress_codes(pipeline, path.read_bytes()) for path in files]), folder / "codes"
    )


@torch.no_grad()
def sizes(pipeline: Pipeline, codes: torch.Tensor, files: list[bytes]) -> dict[str, float]:
    """Return bytes of the payload and of the header, and bytes that the likelihood says."""
    config = pipeline.prior.config
    order = {} if config.objective == "raster" else {"order": coding_order(config)}
    expected = -pipeline.prior.log_prob(codes, **order).double().sum(1) / math.log(2) / 8
    payloads = np.array([len(Compressed.from_bytes(data).payload) for data in files])
    return {
        "payload_bytes": float(payloads.mean()),
        "log_prob_bytes": float(expected.mean()),
        "payload_over_log_prob": float(payloads.sum() / float(expected.sum())),
        "header_bytes": float(np.mean([len(data) for data in files]) - payloads.mean()),
        "uniform_codes_bytes": config.tokens * math.log2(config.codebook_size) / 8,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("-n", type=int, default=100)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--decompress", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.decompress:
        decompress_folder(given.model, given.images)
        return
    pipeline = Pipeline.from_pretrained(given.model, precision="fp32")
    config = pipeline.tokenizer.config
    paths = find_images([given.images])
    paths = paths[:: max(1, len(paths) // given.n)][: given.n]
    prepared = [prepare(path, config, "white") for path in paths]
    images, pixels = [own.image for own in prepared], torch.stack([own.pixels for own in prepared])
    with torch.no_grad():
        codes = torch.cat([pipeline.tokenizer.encode(p[None]) for p in pixels])
    files = [compress(pipeline, path) for path in paths]
    elsewhere = decompressed_elsewhere(given.model, files)
    decoded = pipeline.decode(elsewhere)
    perceptual = Perceptual(str(local_backbone()))

    def lpips(others: list[Image.Image]) -> float:
        tensors = torch.stack([prepare(other, config, "white").pixels for other in others])
        with torch.no_grad():
            return float(perceptual(pixels, tensors).mean())

    wanted = lpips(decoded)
    results: dict[str, Any] = {
        "images": len(images), "size": config.size, "lpips_backbone": local_backbone(),
        "equal_codes": int((elsewhere == codes).flatten(1).all(1).sum()), **sizes(pipeline, codes, files),
        "imgtf": {"bytes": float(np.mean([len(f) for f in files])), "lpips": wanted, "psnr": psnr(images, decoded)},
    }  # fmt: skip
    columns = [images, decoded]
    for kind in FORMATS:
        results[kind], shown = at_like_lpips(images, kind, wanted, lpips, together=False)
        results[f"{kind}_mosaic"], shown = at_like_lpips(images, kind, wanted, lpips, together=True)
        columns.append(shown)
    print(json.dumps(results, indent=2))
    if given.picture:
        chosen = [column[i] for i in range(PICTURE_ROWS) for column in columns]
        captions = ["image", "imgtf", "JPEG", "WebP"] * PICTURE_ROWS
        draw_grid(chosen, columns=2 * len(columns), captions=captions, scale=2).save(given.picture)


if __name__ == "__main__":
    main()
