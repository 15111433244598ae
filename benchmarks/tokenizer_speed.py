"""Speed of encoding and decoding in bf16 compared with float32, and how many codes change.

    python benchmarks/tokenizer_speed.py [--model DIR] [--data SRC] [--image-size PX] [--batch-size 2] [--rounds 5]

fp32 is the module as built; bf16 is what `--precision bf16` does (tokenizer/codec.py). Both are measured in turn.
Without --model, the `base` tokenizer has random weights: the speeds are valid, but codes and PSNR are not. Prints one
JSON object.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from imgtf import Tokenizer
from imgtf.bench.networks import tokenizer_config
from imgtf.bench.timing import Measurement, measure_in_turn
from imgtf.bench.tokenizer import make_codecs
from imgtf.data.config import DataConfig
from imgtf.data.images import ImageDataset
from imgtf.data.loader import eval_batches
from imgtf.data.source import open_source
from imgtf.runtime.machine import describe_machine
from imgtf.tokenizer.codec import Codec
from imgtf.tokenizer.metrics import psnr


def load_images(data: str, channels: int, size: int, n: int) -> Tensor:
    """Return n held-out images (n, C, size, size), or noise without a data set."""
    if not data:
        return torch.rand(n, channels, size, size) * 2 - 1
    settings = DataConfig(data=data)
    dataset = ImageDataset(open_source(settings)[1], size, channels, settings)
    return torch.cat([batch["image"] for batch in eval_batches(dataset, n, limit=n)])


def measure_speed(codecs: dict[str, Codec], images: Tensor, rounds: int) -> dict[str, dict[str, float]]:
    """Return the images/s of encoding and decoding by precision."""
    inputs = {"encode": images, "decode": codecs["fp32"].encode(images)}
    cases = [(name, operation) for name in codecs for operation in inputs]
    measurements = [
        Measurement(f"{operation}, {name}", partial(getattr(codecs[name], operation), inputs[operation]))
        for name, operation in cases
    ]
    speeds: dict[str, dict[str, float]] = {name: {} for name in codecs}
    timings = measure_in_turn(measurements, rounds, images.device)
    for (name, operation), timing in zip(cases, timings, strict=True):
        speeds[name][f"{operation}_images_per_s"] = len(images) / timing.median
    return speeds


def add_speedups(speeds: dict[str, dict[str, float]]) -> None:
    """Add the ratio to fp32 of each speed."""
    for own in speeds.values():
        for operation in ("encode", "decode"):
            key = f"{operation}_images_per_s"
            own[f"{operation}_speedup"] = own[key] / speeds["fp32"][key]


def measure_quality(codecs: dict[str, Codec], images: Tensor, batch_size: int) -> dict[str, dict[str, float]]:
    """Return the fraction of codes equal to those of fp32, and the PSNR in dB, by precision."""
    chunks = images.split(batch_size)
    codes = {name: [codec.encode(chunk) for chunk in chunks] for name, codec in codecs.items()}
    quality = {}
    for name, codec in codecs.items():
        equal = [(own == fp32).float().mean() for own, fp32 in zip(codes[name], codes["fp32"], strict=True)]
        values = [psnr(chunk, codec.decode(own)) for chunk, own in zip(chunks, codes[name], strict=True)]
        quality[name] = {
            "codes_equal": torch.stack(equal).mean().item(),
            "psnr": torch.cat(values).mean().item(),
        }
    return quality


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", help="folder of a trained model")
    parser.add_argument("--data", default="", help="data set of images; default: noise")
    parser.add_argument("--image-size", type=int, help="default: that of the model")
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=4, help="images for codes and PSNR")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    if args.model:
        model = Tokenizer.from_pretrained(Path(args.model) / "tokenizer", device)
    else:
        model = Tokenizer(tokenizer_config("base")).eval().to(device)
    codecs = make_codecs(model)
    size = args.image_size or model.config.image_size
    n = max(args.batch_size, args.images)
    images = load_images(args.data, model.config.channels, size, n).to(device)
    speeds = measure_speed(codecs, images[: args.batch_size], args.rounds)
    add_speedups(speeds)
    quality = measure_quality(codecs, images, args.batch_size)
    report = {
        "machine": describe_machine(device),
        "weights": args.model or "random: codes_equal and psnr are not valid",
        "parameters": model.parameter_count(),
        "image size": size,
        "batch size": args.batch_size,
    }
    print(json.dumps(report | {name: speeds[name] | quality[name] for name in codecs}, indent=2))


if __name__ == "__main__":
    main()
