"""Do samples match their captions? One sample per held-out caption, classified by its nearest training image.

    python benchmarks/captions.py MODEL DATA [--cfg-scale 3] [--grid docs/captions.png]

MODEL is conditioned on text; DATA is a data set of 32 px images with labels and captions. The nearest training image is
found in LPIPS (squeeze) features, and its class is compared with the class of the caption's image, which the prior does
not know. For comparison: the same for shuffled captions (chance), for the real held-out images, and for their
reconstructions (the best that samples can reach). Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from imgtf import Pipeline
from imgtf.data.config import DataConfig
from imgtf.data.grid import draw_grid
from imgtf.data.image import to_pil
from imgtf.data.images import ImageDataset
from imgtf.data.loader import eval_batches
from imgtf.data.source import ImageSource, open_source
from imgtf.tokenizer.perceptual import Perceptual

BATCH_SIZE = 64
GRID_IMAGES, GRID_COLUMNS = 24, 8


def load_images(source: ImageSource, data: DataConfig) -> dict[str, Any]:
    """Return all images of a source (n, 3, 32, 32), with their labels and captions."""
    rows = list(eval_batches(ImageDataset(source, 32, 3, data), BATCH_SIZE))
    return {
        "image": torch.cat([row["image"] for row in rows]),
        "label": torch.cat([row["label"] for row in rows]),
        "text": [text for row in rows for text in row["text"]],
    }


@torch.no_grad()
def features(perceptual: Perceptual, images: Tensor) -> Tensor:
    """Return unit vectors (n, F): the mean of the last layer over positions, and the colours of a 4x4 thumbnail."""
    deep = torch.cat([perceptual.features(chunk)[-1].mean((2, 3)) for chunk in images.split(BATCH_SIZE)])
    small = torch.nn.functional.adaptive_avg_pool2d(images, 4).flatten(1)
    return torch.cat([torch.nn.functional.normalize(part, dim=1) for part in (deep, small)], dim=1)


@torch.no_grad()
def sample_captions(pipeline: Pipeline, captions: list[str], cfg_scale: float) -> Tensor:
    """Return one image per caption (n, 3, 32, 32)."""
    stream = pipeline.stream(len(captions), text=captions, batch_size=BATCH_SIZE, cfg_scale=cfg_scale)
    codes = torch.stack([sample.codes for sample in stream])
    return torch.cat([pipeline.tokenizer.decode(chunk) for chunk in codes.split(BATCH_SIZE)])


@torch.no_grad()
def reconstruct(pipeline: Pipeline, images: Tensor) -> Tensor:
    tokenizer = pipeline.tokenizer
    return torch.cat([tokenizer.decode(tokenizer.encode(chunk)) for chunk in images.split(BATCH_SIZE)])


def write_grid(held_out: dict[str, Any], samples: Tensor, path: Path) -> None:
    """Write rows of real images, each above the row of samples of their captions."""
    chosen = (torch.arange(GRID_IMAGES) * len(samples) // GRID_IMAGES).split(GRID_COLUMNS)
    images, captions = [], []
    for row in chosen:
        images += [to_pil(image) for group in (held_out["image"], samples) for image in group[row]]
        captions += ["real"] * len(row) + [held_out["text"][i] for i in row]
    draw_grid([image.resize((96, 96), 0) for image in images], columns=GRID_COLUMNS, captions=captions).save(
        path
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("data")
    parser.add_argument("--cfg-scale", type=float, default=3.0)
    parser.add_argument("--grid", type=Path, help="write a grid of samples")
    args = parser.parse_args()
    data = DataConfig(data=args.data)
    train, held_out = (load_images(source, data) for source in open_source(data))
    pipeline = Pipeline.from_pretrained(args.model, "cpu")
    samples = sample_captions(pipeline, held_out["text"], args.cfg_scale)
    perceptual = Perceptual("squeeze")
    train_features = features(perceptual, train["image"])

    def agreement(images: Tensor, labels: Tensor) -> float:
        nearest = torch.cdist(features(perceptual, images), train_features).argmin(1)
        return float((train["label"][nearest] == labels).float().mean())

    labels = held_out["label"]
    shuffled = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    report = {
        "captions": len(labels),
        "cfg scale": args.cfg_scale,
        "samples": agreement(samples, labels),
        "samples, shuffled captions": agreement(samples, shuffled),
        "real held-out images": agreement(held_out["image"], labels),
        "reconstructions of held-out images": agreement(reconstruct(pipeline, held_out["image"]), labels),
        "fraction of the most frequent class": float(labels.bincount().max() / len(labels)),
    }
    print(json.dumps(report, indent=2))
    if args.grid:
        write_grid(held_out, samples, args.grid)


if __name__ == "__main__":
    main()
