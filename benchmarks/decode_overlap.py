"""Is it faster to decode a batch while the next one is sampled? Random weights.

    python benchmarks/decode_overlap.py [--preset tiny] [--batch-size 64] [--batches 4] [--rounds 5]

Sampling and decoding one after the other is compared with decoding in a thread; both are measured in turn. Prints one
JSON object with the median seconds.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from imgtf.bench.networks import random_networks
from imgtf.bench.sampling import sampler
from imgtf.bench.timing import Measurement, measure_in_turn, speedup
from imgtf.pipelines.pipeline import Pipeline
from imgtf.runtime.machine import describe_machine


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pipeline = Pipeline(*random_networks(args.preset, device))
    sample = sampler(pipeline.decoder, top_k=100)

    def sample_batch() -> Tensor:
        return sample(args.batch_size, 1.0)

    def sequential() -> None:
        for _ in range(args.batches):
            pipeline.decode(sample_batch())

    def overlapping() -> None:
        decoding: Future[Any] | None = None
        with ThreadPoolExecutor(1) as thread:
            for _ in range(args.batches):
                codes = sample_batch()
                if decoding is not None:
                    decoding.result()
                decoding = thread.submit(pipeline.decode, codes)

    codes = sample_batch()
    measurements = [
        Measurement("one after the other", sequential),
        Measurement("overlapping", overlapping),
        Measurement("sampling one batch", sample_batch),
        Measurement("decoding one batch", lambda: pipeline.decode(codes)),
    ]
    timings = measure_in_turn(measurements, args.rounds, device)
    seconds = {one.name: timing.median for one, timing in zip(measurements, timings, strict=True)}
    report = {"machine": describe_machine(device), **vars(args), "seconds": seconds}
    print(json.dumps(report | {"speedup of overlapping": speedup(timings[0], timings[1])}, indent=2))


if __name__ == "__main__":
    main()
