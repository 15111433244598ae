"""Raster, random-order and masked priors of one tokenizer: quality and time by number of steps.

    python benchmarks/objectives.py DATA MODEL... [--samples 512] [--cfg-scale 2] [--plot docs/steps.png]

DATA is a data set of 32 px colour images with labels; each MODEL was trained on it (benchmarks/objectives.sh). For
every model and number of steps: agreement of a small classifier, trained on the real images, with the labels of the
samples; Frechet distance to the held-out images in LPIPS (squeeze) features; seconds per 64 images. LPIPS needs its
weights, from TORCH_HOME or a download. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgtf import Pipeline
from imgtf.data.config import AugmentationConfig, DataConfig
from imgtf.data.images import ImageDataset
from imgtf.data.loader import eval_batches, train_batches
from imgtf.data.source import ImageSource, open_source
from imgtf.evaluation.distances import frechet_distance
from imgtf.evaluation.statistics import Moments
from imgtf.runtime.machine import describe_machine
from imgtf.tokenizer.perceptual import Perceptual

STEPS = {"raster": [64], "random": [4, 8, 16, 32, 64], "masked": [4, 8, 12, 16, 32]}
BATCH_SIZE = 64


class Classifier(nn.Sequential):
    """A small convolutional network without residuals: colour images (B, 3, 32, 32) to logits (B, classes)."""

    def __init__(self, classes: int) -> None:
        layers: list[nn.Module] = []
        for before, after in ((3, 48), (48, 96), (96, 192), (192, 192)):
            for width in (before, after):
                layers += [
                    nn.Conv2d(width, after, 3, padding=1, bias=False),
                    nn.BatchNorm2d(after),
                    nn.ReLU(),
                ]
            layers.append(nn.MaxPool2d(2))
        super().__init__(
            *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.3), nn.Linear(192, classes)
        )


def train_classifier(source: ImageSource, data: DataConfig, epochs: int) -> Classifier:
    """Train a classifier with flips and random shifts of up to 4 pixels."""
    torch.manual_seed(0)
    model = Classifier(len(source.class_names)).to(memory_format=torch.channels_last)
    steps = epochs * len(source) // BATCH_SIZE
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps)
    images = ImageDataset(source, 32, 3, data, AugmentationConfig())
    for _, batch in zip(range(steps), train_batches(images, BATCH_SIZE, seed=0), strict=False):
        padded = F.pad(batch["image"], (4, 4, 4, 4), mode="reflect")
        y, x = torch.randint(9, (2,)).tolist()
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(padded[..., y : y + 32, x : x + 32].contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(logits.float(), batch["label"], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def features(perceptual: Perceptual, images: Tensor) -> Tensor:
    """Return the mean of the backbone's last layer over positions, (n, F)."""
    return torch.cat([perceptual.features(chunk)[-1].mean((2, 3)) for chunk in images.split(BATCH_SIZE)])


def held_out_images(source: ImageSource, data: DataConfig) -> Iterator[tuple[Tensor, Tensor]]:
    images = ImageDataset(source, 32, 3, data)
    return ((batch["image"], batch["label"]) for batch in eval_batches(images, 256))


@torch.no_grad()
def sample_images(
    pipeline: Pipeline, n: int, steps: int | None, cfg_scale: float
) -> tuple[Tensor, Tensor, float]:
    """Return n images whose labels take the classes in turn, the labels, and the median seconds per 64 images."""
    labels = torch.arange(n) % pipeline.prior.config.classes
    images, seconds = [], []
    for own in labels.split(BATCH_SIZE):
        start = time.perf_counter()
        samples = list(
            pipeline.stream(
                len(own), own, first=len(images) * BATCH_SIZE, batch_size=len(own), cfg_scale=cfg_scale,
                sampling_steps=steps,
            )
        )  # fmt: skip
        seconds.append((time.perf_counter() - start) * 64 / len(own))
        images.append(pipeline.tokenizer.decode(torch.stack([sample.codes for sample in samples])))
    return torch.cat(images), labels, median(seconds)


@torch.no_grad()
def agreement(classifier: Classifier, images: Tensor, labels: Tensor) -> float:
    """Return the fraction of images that the classifier assigns to their label."""
    predicted = torch.cat([classifier(chunk).argmax(1) for chunk in images.split(BATCH_SIZE)])
    return float((predicted == labels).float().mean())


@torch.no_grad()
def reconstruct(pipeline: Pipeline, images: Tensor) -> Tensor:
    tokenizer = pipeline.tokenizer
    return torch.cat([tokenizer.decode(tokenizer.encode(chunk)) for chunk in images.split(BATCH_SIZE)])


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Plot Frechet distance and agreement over the seconds per 64 images."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for axis, key, title in (
        (axes[0], "frechet_lpips_features", "Frechet distance to held-out images (lower is better)"),
        (axes[1], "agreement", "classifier agreement with the label (higher is better)"),
    ):
        for name in dict.fromkeys(row["objective"] for row in rows):
            own = [row for row in rows if row["objective"] == name]
            axis.plot([r["seconds_per_64_images"] for r in own], [r[key] for r in own], "o-", label=name)
            for r in own:
                axis.annotate(
                    str(r["steps"]),
                    (r["seconds_per_64_images"], r[key]),
                    fontsize=8,
                    xytext=(3, 3),
                    textcoords="offset points",
                )
        axis.set(xscale="log", xlabel="seconds per 64 images (numbers: steps)", title=title)
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(ScalarFormatter())
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("data")
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--cfg-scale", type=float, default=2.0)
    parser.add_argument("--epochs", type=int, default=20, help="epochs of the classifier")
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    data = DataConfig(data=args.data)
    train, held_out = open_source(data)
    classifier = train_classifier(train, data, args.epochs)
    images, labels = (torch.cat(parts) for parts in zip(*held_out_images(held_out, data), strict=True))
    perceptual = Perceptual("squeeze")
    real = Moments(features(perceptual, images))
    rows = []
    for folder in args.models:
        pipeline = Pipeline.from_pretrained(folder, "cpu", precision="fp32")
        objective = pipeline.prior.config.objective
        for steps in STEPS[objective]:
            sampled, asked, seconds = sample_images(
                pipeline, args.samples, None if objective == "raster" else steps, args.cfg_scale
            )
            rows.append({
                "objective": objective, "steps": steps, "seconds_per_64_images": round(seconds, 2),
                "agreement": agreement(classifier, sampled, asked),
                "frechet_lpips_features": frechet_distance(real, Moments(features(perceptual, sampled))),
            })  # fmt: skip
            print(rows[-1], file=sys.stderr, flush=True)
    reconstructed = reconstruct(pipeline, images)
    report = {
        "machine": describe_machine(torch.device("cpu")),
        "samples": args.samples,
        "cfg scale": args.cfg_scale,
        "classifier_on_held_out": agreement(classifier, images, labels),
        "classifier_on_reconstructions": agreement(classifier, reconstructed, labels),
        "frechet_of_reconstructions": frechet_distance(real, Moments(features(perceptual, reconstructed))),
        "rows": rows,
    }
    print(json.dumps(report, indent=2))
    if args.plot:
        plot(rows, args.plot)


if __name__ == "__main__":
    main()
