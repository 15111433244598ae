"""How fast the `base` tokenizer encodes and decodes in bf16 against plain fp32, and what the codes lose by it.

    python benchmarks/tokenizer_speed.py [--model DIR] [--data SRC] [--side PX] [--batch 2] [--rounds 5]

Ways: `fp32`, the module as built, eager; `bf16`, what `--precision bf16` does (tokenizer/coder.py). They take turns,
so that a change of the machine's pace meets both. Without `--model` the weights are random: speeds hold, but codes and
PSNR say nothing, because random latents lie between codes. It prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path

import torch
from torch import Tensor

from imgtf import Tokenizer
from imgtf.bench.coding import coding_ways
from imgtf.bench.run import tokenizer_config
from imgtf.bench.timing import Measurement, take_turns
from imgtf.data.config import DataConfig
from imgtf.data.images import ImageDataset
from imgtf.data.loader import eval_batches
from imgtf.data.source import open_source
from imgtf.tokenizer.codec import Codec
from imgtf.tokenizer.metrics import psnr


def load_images(data: str, channels: int, side: int, n: int) -> Tensor:
    """n held-out images (n, C, side, side), or noise where no source is named."""
    if not data:
        return torch.rand(n, channels, side, side) * 2 - 1
    settings = DataConfig(data=data)
    dataset = ImageDataset(open_source(settings)[1], side, channels, settings)
    return torch.cat([batch["image"] for batch in eval_batches(dataset, n, limit=n)])


def time_in_turns(all_ways: dict[str, Codec], images: Tensor, rounds: int) -> dict[str, dict[str, float]]:
    """Images a second of encoding and of decoding: medians over the rounds, after one that does not count."""
    codes = all_ways["fp32"].encode(images)
    cases = [(name, half) for name in all_ways for half in ("encode", "decode")]
    acts = []
    for name, half in cases:
        given = images if half == "encode" else codes
        acts.append(Measurement(name, lambda w=all_ways[name], h=half, x=given: getattr(w, h)(x)))  # type: ignore[misc]
    speeds: dict[str, dict[str, float]] = {name: {} for name in all_ways}
    for (name, half), timing in zip(cases, take_turns(acts, rounds, images.device), strict=True):
        speeds[name][f"{half}_images_per_s"] = len(images) / timing.median
    return speeds


def quality(all_ways: dict[str, Codec], images: Tensor, batch: int) -> dict[str, dict[str, float]]:
    """Share of codes equal to those of fp32, and PSNR in dB with each way's own codes."""
    codes: dict[str, list[Tensor]] = {name: [] for name in all_ways}
    figures: dict[str, list[Tensor]] = {name: [] for name in all_ways}
    for part in images.split(batch):
        for name, way in all_ways.items():
            codes[name].append(way.encode(part).cpu())
            figures[name].append(psnr(part, way.decode(way.encode(part))).cpu())
    expected = torch.cat(codes["fp32"])
    return {
        name: {
            "codes_equal": (torch.cat(codes[name]) == expected).float().mean().item(),
            "psnr": torch.cat(figures[name]).mean().item(),
        }
        for name in all_ways
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("--model", help="folder of a trained model")
    parser.add_argument("--data", default="", help="source of images; noise without it")
    parser.add_argument("--side", type=int, help="side of the images, the model's unless given")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=4, help="images for codes and PSNR")
    given = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    model = Tokenizer(tokenizer_config("base")).eval()
    if given.model:
        model = Tokenizer.from_pretrained(Path(given.model) / "tokenizer", "cpu")
    all_ways = coding_ways(model.to(device))
    side = given.side or model.config.image_size
    images = load_images(given.data, model.config.channels, side, max(given.batch, given.images)).to(device)
    speeds = time_in_turns(all_ways, images[: given.batch], given.rounds)
    losses = quality(all_ways, images, given.batch)
    result = {name: speeds[name] | losses[name] for name in all_ways}
    for figures in result.values():
        for half in ("encode", "decode"):
            ratio = figures[f"{half}_images_per_s"] / speeds["fp32"][f"{half}_images_per_s"]
            figures[f"{half}_speedup"] = ratio
    machine = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    header = {
        "machine": machine, "threads": torch.get_num_threads(), "torch": torch.__version__, "batch": given.batch,
        "weights": given.model or "random: codes_equal and psnr say nothing",
        "parameters": model.parameter_count(), "side": side,
    }  # fmt: skip
    print(json.dumps(header | result, indent=2))


if __name__ == "__main__":
    main()
