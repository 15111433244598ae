"""Whether decoding a batch while the next one is sampled is faster than one after the other. Random weights.

    python benchmarks/decode_overlap.py [--preset tiny] [--batch 64] [--batches 4] [--rounds 5]

Both take turns; medians. It prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from imgtf.bench.config import BenchConfig
from imgtf.bench.machine import describe_machine
from imgtf.bench.run import random_networks
from imgtf.bench.sampling import drawer
from imgtf.bench.timing import Measurement, ratio_of, take_turns
from imgtf.pipelines.pipeline import Pipeline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pipeline = Pipeline(*random_networks(given.preset, device))
    draw = drawer(pipeline.prior, BenchConfig())

    def codes() -> Tensor:
        return draw(given.batch, 1.0)  # type: ignore[return-value]

    def one_after_the_other() -> None:
        for _ in range(given.batches):
            pipeline.decode(codes())

    def overlapping() -> None:
        decoding: Future[Any] | None = None
        with ThreadPoolExecutor(1) as thread:
            for _ in range(given.batches):
                drawn = codes()
                if decoding is not None:
                    decoding.result()
                decoding = thread.submit(pipeline.decode, drawn)

    drawn = codes()
    acts = [
        Measurement("one after the other", one_after_the_other),
        Measurement("overlapping", overlapping),
        Measurement("sampling alone", codes),
        Measurement("decoding alone", lambda: pipeline.decode(drawn)),
    ]
    timings = take_turns(acts, given.rounds, device)
    seconds = {act.name: timing.median for act, timing in zip(acts, timings, strict=True)}
    gain = {"gain of overlapping": ratio_of(timings[0], timings[1])}
    print(json.dumps({"machine": describe_machine(device), **vars(given), **seconds, **gain}, indent=2))


if __name__ == "__main__":
    main()
