"""One picture of a model: held-out images, their reconstructions, and samples.

    python benchmarks/gallery.py MODEL OUT.png [--side 64]

The first two rows are eight held-out images and the same after the tokenizer; the next four rows are 32 samples with
the model's own settings, spread over its classes. Nothing is selected: the held-out images are evenly spaced, the
seed of the samples is 0. --side: pixels of each image in the picture, a multiple of the model's size where it fits.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from PIL import Image

from imgtf import Pipeline
from imgtf.data.config import DataConfig
from imgtf.data.image import to_pil
from imgtf.data.source import open_source
from imgtf.evaluation.references import RealImages
from imgtf.pipelines.settings import collect_for_model

COLUMNS, SAMPLE_ROWS, GAP = 8, 4, 4


def held_out(folder: Path, pipeline: Pipeline) -> list[list[Image.Image]]:
    """A row of evenly spaced held-out images of the model's data, and a row of their reconstructions."""
    config = collect_for_model(folder, (DataConfig,), {}, "tokenizer").part(DataConfig)
    tokenizer = pipeline.tokenizer
    source = open_source(config)[1]
    real = RealImages(source, config, tokenizer.config.size, tokenizer.config.channels, limit=COLUMNS)
    images = torch.cat([batch["image"] for batch in real.batches()])
    with torch.no_grad():
        decoded = tokenizer(images).images.clamp(-1, 1)
    return [[to_pil(image) for image in row] for row in (images, decoded)]


def sheet(rows: list[list[Image.Image]], side: int) -> Image.Image:
    """Rows of images on white, with a wider gap after the second row."""
    step = side + GAP
    mode = "L" if all(image.mode == "L" for row in rows for image in row) else "RGB"
    page = Image.new(mode, (COLUMNS * step - GAP, len(rows) * step + 2 * GAP), "white")
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            shown = image.convert(mode).resize((side, side), Image.Resampling.NEAREST)
            page.paste(shown, (x * step, y * step + (3 * GAP if y > 1 else 0)))
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--side", type=int, default=64, help="pixels of each image in the picture")
    args = parser.parse_args()
    pipeline = Pipeline.from_pretrained(args.model)
    classes, n = pipeline.prior.config.classes, COLUMNS * SAMPLE_ROWS
    labels = [i * classes // n for i in range(n)] if classes else None
    samples = pipeline.sample(n, labels, seed=0)
    rows = [samples[start : start + COLUMNS] for start in range(0, n, COLUMNS)]
    sheet(held_out(args.model, pipeline) + rows, args.side).save(args.out, optimize=True)


if __name__ == "__main__":
    main()
