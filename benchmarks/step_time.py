"""Time of a decoding step by position in the sequence. Random weights, real sizes.

    python benchmarks/step_time.py [--preset llamagen-b] [--batch-sizes 1 8 64] [--precision bf16] [--rounds 3] \\
        [--plot docs/step_time.png]

A step takes a constant time for the weights, and a time for the cache that grows with the position, because attention
reads only filled tokens. Prints one JSON object with the median milliseconds per step in each eighth of the sequence.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from imgtf.bench.networks import random_networks
from imgtf.bench.random_data import random_condition
from imgtf.bench.sampling import bench_settings
from imgtf.prior.decoding.decoder import Decoder
from imgtf.prior.decoding.quantized import cast
from imgtf.prior.decoding.sampler import image_uniforms, sample
from imgtf.runtime.machine import describe_machine
from imgtf.runtime.precision import DTYPES

SECTIONS = 8


def step_times(decoder: Decoder, images: int) -> list[float]:
    """Return the milliseconds of each step of one batch."""
    config, ends = decoder.config, [time.perf_counter()]
    sample(
        decoder,
        random_condition(config, images),
        image_uniforms(0, 0, images, config.tokens),
        bench_settings(config, top_k=100, cfg_scale=1.0),
        lambda _: ends.append(time.perf_counter()),
    )
    return [1000 * (end - start) for start, end in itertools.pairwise(ends)]


def times_by_section(decoder: Decoder, images: int, rounds: int) -> list[float]:
    """Return the medians in each eighth of the sequence, over steps and rounds. The first round does not count."""
    runs = [step_times(decoder, images) for _ in range(1 + rounds)][1:]
    n = len(runs[0]) // SECTIONS
    return [round(median(t for run in runs for t in run[i * n : (i + 1) * n]), 2) for i in range(SECTIONS)]


def plot(report: dict[str, Any], tokens: int, path: Path) -> None:
    """Plot the milliseconds per step over the position, one line per batch size."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    centres = [(i + 0.5) * tokens / SECTIONS for i in range(SECTIONS)]
    for images, times in report["ms per step"].items():
        axes.plot(centres, times, "o-", label=f"{images} images")
    machine = report["machine"]
    axes.set(
        xlabel="position", ylabel="ms per step", ylim=(0, None),
        title=f"{report['preset']}, {report['precision']}, {machine['processor']}, {machine['date'][:10]}",
    )  # fmt: skip
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--preset", default="llamagen-b")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--precision", default="bf16", choices=tuple(DTYPES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    _, prior = random_networks(args.preset, torch.device("cpu"))
    decoder = Decoder(cast(prior, DTYPES[args.precision]))
    report: dict[str, Any] = {
        "machine": describe_machine(torch.device("cpu")),
        "preset": args.preset,
        "precision": args.precision,
        "ms per step": {n: times_by_section(decoder, n, args.rounds) for n in args.batch_sizes},
    }
    print(json.dumps(report, indent=2))
    if args.plot:
        plot(report, prior.config.tokens, args.plot)


if __name__ == "__main__":
    main()
