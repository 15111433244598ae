"""How the time of a decoding step grows with the position in the grid: random weights, real sizes, drawn as a plot.

    python benchmarks/step_time.py [--preset llamagen-b] [--batches 1 8 64] [--dtype bf16] [--rounds 3] \\
        [--plot docs/step_time.png]

It prints one JSON object with the median milliseconds of a step in each eighth of the sequence. Attention reads only
what is filled: a step takes a fixed part (the weights) and one that grows with the position (keys and values).
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

from imgtf.bench.machine import describe_machine
from imgtf.bench.run import random_networks
from imgtf.bench.sampling import random_condition, settings_of
from imgtf.pipelines.pipeline import TYPES, sampling_type
from imgtf.prior.decoding.quantized import cast
from imgtf.prior.decoding.sampler import image_uniforms, sample
from imgtf.prior.model import Prior

PARTS = 8


def step_times(prior: Prior, images: int) -> list[float]:
    """Milliseconds of each step of one batch."""
    uniforms = image_uniforms(0, 0, images, prior.config.tokens)
    marks = [time.perf_counter()]
    sample(
        prior,
        random_condition(prior.config, images),
        uniforms,
        settings_of(prior.config, top_k=100, guidance=1.0),
        lambda _: marks.append(time.perf_counter()),
    )
    return [1000 * (end - start) for start, end in itertools.pairwise(marks)]


def by_position(prior: Prior, images: int, rounds: int) -> list[float]:
    """Medians by eighth of the sequence, over steps and rounds; the first round does not count."""
    runs = [step_times(prior, images) for _ in range(1 + rounds)][1:]
    n = len(runs[0]) // PARTS
    return [round(median(t for run in runs for t in run[i * n : (i + 1) * n]), 2) for i in range(PARTS)]


def plot(report: dict[str, Any], tokens: int, path: Path) -> None:
    """One line a batch; milliseconds of a step over the position."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    middle = [(i + 0.5) * tokens / PARTS for i in range(PARTS)]
    for images, times in report["ms a step"].items():
        axis.plot(middle, times, "o-", label=f"{images} images")
    machine = report["machine"]
    axis.set(
        xlabel="position", ylabel="ms a step", ylim=(0, None),
        title=f"{report['preset']}, {report['dtype']}, {machine['processor']}, {machine['date'][:10]}",
    )  # fmt: skip
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(path, dpi=110)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--preset", default="llamagen-b")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--dtype", default="bf16", choices=tuple(TYPES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    _, prior = random_networks(given.preset, torch.device("cpu"))
    prior = cast(prior, sampling_type(given.dtype)).eval()
    report: dict[str, Any] = {
        "machine": describe_machine(torch.device("cpu")), "preset": given.preset, "dtype": given.dtype,
        "ms a step": {images: by_position(prior, images, given.rounds) for images in given.batches},
    }  # fmt: skip
    print(json.dumps(report, indent=2))
    if given.plot:
        plot(report, prior.config.tokens, given.plot)


if __name__ == "__main__":
    main()
