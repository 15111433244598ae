"""Does a score find what is unusual: images of another kind, and patches of other images?

    python benchmarks/anomaly.py MODEL NORMAL [--other OTHER] [--patches 100] [--orders 8]

NORMAL and OTHER are folders of images that the model was not trained on.

- AUC of bits per token between NORMAL and OTHER: the chance that an image of OTHER scores more bits than one of NORMAL.
  Beside it the AUC of two baselines, the mean intensity and the contrast (standard deviation) of the pixels. An AUC
  below 0.5 separates as well as 1 minus it, in the other direction.
- A patch of another image of NORMAL is pasted into one of them, both places at random. The patch counts as found where
  the window of its size with the highest mean of the heat map overlaps at least half of its area. `chance` is the same
  for random numbers as the map.

Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from imgtf import Pipeline
from imgtf.pipelines.prepare import prepare
from imgtf.pipelines.score_files import find_images
from imgtf.pipelines.scoring import MAPS, ORDERS, score

FRACTIONS = (2, 3, 4)
"""The side of the image over that of the patch."""
SEED = 0


def auc(normal: np.ndarray, other: np.ndarray) -> float:
    """Return the share of pairs in which `other` is larger; ties count half."""
    difference = other[:, None] - normal[None]
    return float((difference > 0).mean() + (difference == 0).mean() / 2)


def read(pipeline: Pipeline, folder: Path) -> np.ndarray:
    """Return the images at the model's size, (n, H, W) or (n, H, W, 3) uint8."""
    config = pipeline.tokenizer.config
    return np.stack([np.asarray(prepare(p, config, "white").image) for p in find_images([folder])])


def separation(pipeline: Pipeline, normal: np.ndarray, other: np.ndarray, orders: int) -> dict[str, float]:
    """Return the AUC of the score and of the baselines."""
    bits = [
        np.array([s.bits_per_token for s in score(pipeline, list(images), orders=orders)])
        for images in (normal, other)
    ]
    mean, contrast = (
        [f(images.reshape(len(images), -1), axis=1) for images in (normal, other)] for f in (np.mean, np.std)
    )
    return {
        "images": len(normal),
        "other_images": len(other),
        "bits_per_token": float(bits[0].mean()),
        "other_bits_per_token": float(bits[1].mean()),
        "auc_bits_per_token": auc(*bits),
        "auc_mean_intensity": auc(*mean),
        "auc_contrast": auc(*contrast),
    }


def pasted(images: np.ndarray, side: int, count: int) -> tuple[list[Image.Image], list[tuple[int, int]]]:
    """Return images with a patch of another one, and the top left corners of the patches."""
    generator = np.random.default_rng(SEED)
    results, corners = [], []
    for _ in range(count):
        into, source = generator.choice(len(images), 2, replace=False)
        rows = generator.integers(0, images.shape[1] - side + 1, 2)
        columns = generator.integers(0, images.shape[2] - side + 1, 2)
        pixels = images[into].copy()
        patch = images[source][rows[1] : rows[1] + side, columns[1] : columns[1] + side]
        pixels[rows[0] : rows[0] + side, columns[0] : columns[0] + side] = patch
        results.append(Image.fromarray(pixels))
        corners.append((int(rows[0]), int(columns[0])))
    return results, corners


def hottest(values: np.ndarray, side: int) -> tuple[int, int]:
    """Return the top left corner of the window (side, side) with the highest mean, in tokens."""
    windows = np.lib.stride_tricks.sliding_window_view(values, (side, side)).mean((2, 3))
    row, column = np.unravel_index(windows.argmax(), windows.shape)
    return int(row), int(column)


def found(values: np.ndarray, corner: tuple[int, int], tokens: int, factor: int) -> bool:
    """Whether the hottest window overlaps at least half of the patch."""
    side = tokens * factor
    row, column = (place * factor for place in hottest(values, tokens))
    overlap = max(0, side - abs(row - corner[0])) * max(0, side - abs(column - corner[1]))
    return 2 * overlap >= side * side


def patches(pipeline: Pipeline, images: np.ndarray, count: int, orders: int) -> list[dict[str, Any]]:
    """Return how many patches of each size are found in the maps."""
    factor, grid = (
        pipeline.tokenizer.config.factor,
        pipeline.tokenizer.config.size[0] // pipeline.tokenizer.config.factor,
    )
    generator, rows = np.random.default_rng(SEED), []
    for fraction in FRACTIONS:
        tokens = grid // fraction
        altered, corners = pasted(images, tokens * factor, count)
        row: dict[str, Any] = {
            "patch_pixels": tokens * factor,
            "patch_area": (tokens / grid) ** 2,
            "cases": count,
        }
        maps = list(score(pipeline, altered, orders=orders))
        for kind in MAPS:
            values = [own.unusual if kind == "unusual" else own.bits for own in maps]
            row[kind] = sum(found(v, c, tokens, factor) for v, c in zip(values, corners, strict=True)) / count
        noise = [generator.random(own.bits.shape) for own in maps]
        row["chance"] = sum(found(v, c, tokens, factor) for v, c in zip(noise, corners, strict=True)) / count
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("normal", type=Path)
    parser.add_argument("--other", type=Path)
    parser.add_argument("--patches", type=int, default=100)
    parser.add_argument("--orders", type=int, default=ORDERS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    pipeline = Pipeline.from_pretrained(given.model, precision="fp32")
    normal = read(pipeline, given.normal)
    results: dict[str, Any] = {"model": str(given.model)}
    if given.other:
        results |= separation(pipeline, normal, read(pipeline, given.other), given.orders)
    results["patches"] = patches(pipeline, normal, given.patches, given.orders)
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
