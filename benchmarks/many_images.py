"""Does the time per image depend on the number of images? Files are written as by `imgtf sample`.

    python benchmarks/many_images.py MODEL [--images 64 256 1024 4096] [--rounds 3]

MODEL is a trained model, for example that of `make demo`. The numbers of images are measured in turn; loading the model
is not included. Prints one JSON object with the median seconds, and the time per image relative to the first number.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median

import torch

from imgtf.pipelines.pipeline import Pipeline
from imgtf.pipelines.write import write_samples
from imgtf.runtime.machine import describe_machine


def seconds_of(pipeline: Pipeline, n: int) -> float:
    """Return the seconds of sampling and writing n images."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        write_samples(pipeline, Path(folder) / "samples", n)
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--images", type=int, nargs="+", default=[64, 256, 1024, 4096])
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    pipeline = Pipeline.from_pretrained(args.model, "cpu")
    rounds = [[seconds_of(pipeline, n) for n in args.images] for _ in range(1 + args.rounds)]
    medians = [median(times) for times in zip(*rounds[1:], strict=True)]  # the first round does not count
    per_image = [seconds / n for seconds, n in zip(medians, args.images, strict=True)]
    rows = [
        {
            "images": n,
            "batch size": pipeline.auto_batch_size(n),
            "seconds": round(seconds, 3),
            "ms per image": round(1000 * own, 3),
            "relative to the first": round(own / per_image[0], 3),
        }
        for n, seconds, own in zip(args.images, medians, per_image, strict=True)
    ]
    print(json.dumps({"machine": describe_machine(torch.device("cpu")), "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
