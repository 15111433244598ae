"""Whether an image costs the same in a small and in a large order: files written, as `imgtf sample` does it.

    python benchmarks/many_images.py MODEL [--images 64 256 1024 4096] [--rounds 3]

MODEL: a trained model folder, such as the one of `make demo`. The orders take turns; loading is not counted. It prints
one JSON object with the median seconds and what an image of each order costs against one of the smallest.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median

import torch

from imgtf.bench.machine import describe_machine
from imgtf.pipelines.pipeline import Pipeline
from imgtf.pipelines.write import write_samples


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--images", type=int, nargs="+", default=[64, 256, 1024, 4096])
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    pipeline = Pipeline.from_pretrained(given.model, "cpu")
    seconds: dict[int, list[float]] = {n: [] for n in given.images}
    for counted in [False, *[True] * given.rounds]:  # the first round warms up
        for n in given.images:
            with tempfile.TemporaryDirectory() as out:
                start = time.perf_counter()
                write_samples(pipeline, Path(out) / "samples", n)
                if counted:
                    seconds[n].append(time.perf_counter() - start)
    cost = {n: median(took) / n for n, took in seconds.items()}
    first = cost[given.images[0]]
    rows = [
        {"images": n, "batch": pipeline.batch_size(n), "seconds": round(median(seconds[n]), 3),
         "ms an image": round(1000 * c, 3), "of the first": round(c / first, 3)}
        for n, c in cost.items()
    ]  # fmt: skip
    print(json.dumps({"machine": describe_machine(torch.device("cpu")), "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
