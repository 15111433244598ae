"""How fast the `base` tokenizer encodes and decodes in bf16 against plain fp32, and what the codes lose by it.

    python benchmarks/tokenizer_speed.py [--model DIR] [--data SRC] [--batch 2] [--rounds 5]

Ways: `fp32`, the module as built, eager; `bf16`, what `--precision bf16` does (tokenizer/coder.py). They take turns,
so that a change of the machine's pace meets both. Without `--model` the weights are random: speeds hold, but codes and
PSNR say nothing, because random latents lie between codes. It prints one JSON object.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import time
import tomllib
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

import imgtf
from imgtf import Tokenizer
from imgtf.data.config import DataConfig
from imgtf.data.images import ImageDataset
from imgtf.data.loader import eval_batches
from imgtf.data.source import open_source
from imgtf.tokenizer.coder import Coder
from imgtf.tokenizer.config import TokenizerConfig
from imgtf.tokenizer.metrics import psnr

PRESETS = Path(imgtf.__file__).parent / "tokenizer" / "presets.toml"


def ways(model: Tokenizer) -> dict[str, Coder]:
    """The same weights in each precision."""
    return {name: Coder(copy.deepcopy(model), name) for name in ("fp32", "bf16")}


def base() -> Tokenizer:
    """The `base` preset's network with random weights."""
    preset = tomllib.loads(PRESETS.read_text())["base"]
    names = {field.name for field in fields(TokenizerConfig)}
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in preset.items() if k in names}
    torch.manual_seed(0)
    return Tokenizer(TokenizerConfig(**values)).eval()


def load_images(data: str, model: Tokenizer, n: int) -> Tensor:
    """n held-out images (n, C, H, W), or noise where no source is named."""
    config = model.config
    if not data:
        return torch.rand(n, config.channels, config.image_size, config.image_size) * 2 - 1
    settings = DataConfig(data=data)
    dataset = ImageDataset(
        open_source(settings)[1], config.image_size, config.channels, settings, augment=False, seed=0
    )
    return torch.cat([batch["image"] for batch in eval_batches(dataset, n, limit=n)])


def seconds(action: Callable[[], Any]) -> float:
    """Wall-clock time of one call, the device's work included."""
    synchronise = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    synchronise()
    start = time.perf_counter()
    action()
    synchronise()
    return time.perf_counter() - start


def time_in_turns(all_ways: dict[str, Coder], images: Tensor, rounds: int) -> dict[str, dict[str, float]]:
    """Images a second of encoding and of decoding: medians over the rounds, after one that does not count."""
    codes = all_ways["fp32"].encode(images)
    taken: dict[str, dict[str, list[float]]] = {name: {"encode": [], "decode": []} for name in all_ways}
    for _ in range(1 + rounds):
        for name, way in all_ways.items():
            taken[name]["encode"].append(seconds(lambda way=way: way.encode(images)))  # type: ignore[misc]
            taken[name]["decode"].append(seconds(lambda way=way: way.decode(codes)))  # type: ignore[misc]
    return {
        name: {f"{half}_images_per_s": len(images) / median(times[1:]) for half, times in halves.items()}
        for name, halves in taken.items()
    }


def quality(all_ways: dict[str, Coder], images: Tensor, batch: int) -> dict[str, dict[str, float]]:
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
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=4, help="images for codes and PSNR")
    given = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = Tokenizer.from_pretrained(Path(given.model) / "tokenizer") if given.model else base()
    all_ways = ways(model.to(device))
    images = load_images(given.data, model, max(given.batch, given.images)).to(device)
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
        "parameters": model.parameter_count(), "side": model.config.image_size,
    }  # fmt: skip
    print(json.dumps(header | result, indent=2))


if __name__ == "__main__":
    main()
