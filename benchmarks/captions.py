"""Do samples show what their captions say? Held-out captions, one sample each, beside the nearest real tiles.

    python benchmarks/captions.py MODEL DATA [--grid docs/captions.png]

The class of the nearest training image (LPIPS squeeze features) is compared with the class that the caption belongs
to, which the prior never saw; beside it the same for captions shuffled among the samples (chance) and for the real
held-out images and their reconstructions (the most there is to reach). Prints one JSON object.
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
from imgtf.prior.decoding.sampler import image_uniforms, sample
from imgtf.tokenizer.perceptual import Perceptual

BATCH = 64
SHOWN = 24


def batches(source: ImageSource, data: DataConfig) -> dict[str, Any]:
    """All images of a source with their labels and captions."""
    images = ImageDataset(source, 32, 3, data)
    rows = list(eval_batches(images, BATCH))
    return {
        "image": torch.cat([row["image"] for row in rows]),
        "label": torch.cat([row["label"] for row in rows]),
        "text": [text for row in rows for text in row["text"]],
    }


@torch.no_grad()
def features(perceptual: Perceptual, images: Tensor) -> Tensor:
    """Unit vectors (n, F): the last layer averaged over places, and the colours of a 4x4 thumbnail."""
    deep = torch.cat([perceptual.features(part)[-1].mean((2, 3)) for part in images.split(BATCH)])
    small = torch.nn.functional.adaptive_avg_pool2d(images, 4).flatten(1)
    return torch.cat([torch.nn.functional.normalize(part, dim=1) for part in (deep, small)], dim=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("data")
    parser.add_argument("--scale", type=float, default=3.0, help="guidance")
    parser.add_argument("--grid", type=Path)
    given = parser.parse_args()
    data = DataConfig(data=given.data)
    train, held_out = (batches(source, data) for source in open_source(data))
    pipeline = Pipeline.from_pretrained(given.model, "cpu")
    tokenizer, settings = pipeline.tokenizer, pipeline.settings(cfg_scale=given.scale)
    made = []
    for start in range(0, len(held_out["text"]), BATCH):
        captions = held_out["text"][start : start + BATCH]
        uniforms = image_uniforms(0, start, len(captions), pipeline.prior.config.tokens)
        codes = sample(pipeline.prior, pipeline.condition(None, captions), uniforms, settings)
        made.append(tokenizer.decode(codes.unflatten(1, pipeline.prior.config.grid)))
    samples = torch.cat(made)
    with torch.no_grad():
        rebuilt = torch.cat(
            [tokenizer.decode(tokenizer.encode(part)) for part in held_out["image"].split(BATCH)]
        )
    perceptual = Perceptual("squeeze")
    known = features(perceptual, train["image"])

    def agreement(images: Tensor, labels: Tensor) -> float:
        nearest = torch.cdist(features(perceptual, images), known).argmin(1)
        return float((train["label"][nearest] == labels).float().mean())

    labels = held_out["label"]
    shuffled = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    report = {
        "captions": len(labels),
        "guidance": given.scale,
        "samples": agreement(samples, labels),
        "samples, captions shuffled": agreement(samples, shuffled),
        "real held-out images": agreement(held_out["image"], labels),
        "their reconstructions": agreement(rebuilt, labels),
        "share of the commonest class": float(labels.bincount().max() / len(labels)),
    }
    print(json.dumps(report, indent=2))
    if given.grid:
        rows = torch.arange(SHOWN) * len(labels) // SHOWN
        pictures = [to_pil(image) for images in (held_out["image"], samples) for image in images[rows]]
        order = [
            i + half * SHOWN
            for line in range(SHOWN // 8)
            for half in (0, 1)
            for i in range(8 * line, 8 * line + 8)
        ]
        captions = [held_out["text"][rows[i % SHOWN]] if i >= SHOWN else "real" for i in order]
        draw_grid([pictures[i].resize((96, 96), 0) for i in order], columns=8, captions=captions).save(
            given.grid
        )


if __name__ == "__main__":
    main()
