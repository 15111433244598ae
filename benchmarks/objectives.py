"""Raster, random-order and masked priors of one tokenizer: what more steps buy.

    python benchmarks/objectives.py DATA MODEL... [--samples 512] [--plot docs/steps.png]

For every model and number of steps: agreement of a small classifier, trained on the real images, with the labels that
were asked for; Frechet distance to the held-out images in LPIPS (squeeze) features; seconds for 64 images. Prints one
JSON object; draws the trade as a plot. The LPIPS weights come from TORCH_HOME, or the download.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgtf import Pipeline
from imgtf.data.config import AugmentationConfig, DataConfig
from imgtf.data.images import ImageDataset
from imgtf.data.loader import eval_batches, train_batches
from imgtf.data.source import ImageSource, open_source
from imgtf.prior.decoding.sampler import image_uniforms, sample
from imgtf.tokenizer.metrics import frechet_distance
from imgtf.tokenizer.perceptual import Perceptual

STEPS = {"raster": [64], "random": [4, 8, 16, 32, 64], "masked": [4, 8, 12, 16, 32]}
BATCH = 64


class Classifier(nn.Sequential):
    """A small residual-free convolutional network for 32 px colour images, (B, 3, 32, 32) to (B, classes)."""

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
    """Trained with flips and random shifts by up to 4 pixels."""
    torch.manual_seed(0)
    model = Classifier(len(source.class_names)).to(memory_format=torch.channels_last)
    steps = epochs * len(source) // BATCH
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps)
    images = ImageDataset(source, 32, 3, data, AugmentationConfig())
    for _, batch in zip(range(steps), train_batches(images, BATCH, seed=0), strict=False):
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
    """The backbone's last layer averaged over places, (B, F)."""
    return torch.cat([perceptual.features(part)[-1].mean((2, 3)) for part in images.split(BATCH)])


def held_out_images(source: ImageSource, data: DataConfig) -> Iterator[tuple[Tensor, Tensor]]:
    images = ImageDataset(source, 32, 3, data)
    return ((batch["image"], batch["label"]) for batch in eval_batches(images, 256))


@torch.no_grad()
def draw(pipeline: Pipeline, n: int, steps: int | None, scale: float) -> tuple[Tensor, Tensor, float]:
    """n images with labels in turn, the labels, and the seconds that 64 of them took."""
    settings = pipeline.settings(cfg_scale=scale, sampling_steps=steps)
    labels = pipeline.labels(n, None)
    images, seconds = [], []
    for start in range(0, n, BATCH):
        part = labels[start : start + BATCH]
        begin = time.perf_counter()
        uniforms = image_uniforms(0, start, len(part), pipeline.prior.config.tokens)
        codes = sample(pipeline.prior, pipeline.condition(part), uniforms, settings)
        images.append(pipeline.tokenizer.decode(codes.unflatten(1, pipeline.prior.config.grid)))
        seconds.append((time.perf_counter() - begin) * 64 / len(part))
    return torch.cat(images), labels, sorted(seconds)[len(seconds) // 2]


@torch.no_grad()
def agreement(classifier: Classifier, images: Tensor, labels: Tensor) -> float:
    guesses = torch.cat([classifier(part).argmax(1) for part in images.split(BATCH)])
    return float((guesses == labels).float().mean())


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Frechet distance and agreement over the seconds that 64 images take."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for axis, key, title in (
        (axes[0], "frechet_lpips_features", "Frechet distance to held-out images (lower is better)"),
        (axes[1], "agreement", "classifier agrees with the label (higher is better)"),
    ):
        for name in dict.fromkeys(row["objective"] for row in rows):
            own = [row for row in rows if row["objective"] == name]
            axis.plot([r["seconds_64"] for r in own], [r[key] for r in own], "o-", label=name)
            for r in own:
                axis.annotate(
                    str(r["steps"]),
                    (r["seconds_64"], r[key]),
                    fontsize=8,
                    xytext=(3, 3),
                    textcoords="offset points",
                )
        axis.set(xscale="log", xlabel="seconds for 64 images (numbers: steps)", title=title)
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
    parser.add_argument("--scale", type=float, default=2.0, help="guidance")
    parser.add_argument("--epochs", type=int, default=20, help="of the classifier")
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    data = DataConfig(data=given.data)
    train, held_out = open_source(data)
    classifier = train_classifier(train, data, given.epochs)
    images, labels = (torch.cat(parts) for parts in zip(*held_out_images(held_out, data), strict=True))
    perceptual = Perceptual("squeeze")
    real = features(perceptual, images)
    rows = []
    for folder in given.models:
        pipeline = Pipeline.from_pretrained(folder, "cpu")
        objective = pipeline.prior.config.objective
        for steps in STEPS[objective]:
            made, asked, seconds = draw(
                pipeline, given.samples, None if objective == "raster" else steps, given.scale
            )
            rows.append({
                "objective": objective, "steps": steps, "seconds_64": round(seconds, 2),
                "agreement": agreement(classifier, made, asked),
                "frechet_lpips_features": frechet_distance(real, features(perceptual, made)),
            })  # fmt: skip
            print(rows[-1], flush=True)
    tokenized = torch.cat(
        [pipeline.tokenizer.decode(pipeline.tokenizer.encode(part)) for part in images.split(BATCH)]
    )
    report = {
        "machine": platform.processor() or platform.machine(), "threads": torch.get_num_threads(),
        "torch": torch.__version__, "date": time.strftime("%Y-%m-%d"),
        "samples": given.samples, "guidance": given.scale,
        "classifier_on_held_out": agreement(classifier, images, labels),
        "classifier_on_reconstructions": agreement(classifier, tokenized, labels),
        "frechet_of_reconstructions": frechet_distance(real, features(perceptual, tokenized)),
        "rows": rows,
    }  # fmt: skip
    print(json.dumps(report, indent=2))
    if given.plot:
        plot(rows, given.plot)


if __name__ == "__main__":
    main()
