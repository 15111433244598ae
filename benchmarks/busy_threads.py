"""Milliseconds of a training step with all threads and with one, beside programs that keep cores busy.

    python benchmarks/busy_threads.py [BUSY...]     BUSY: numbers of busy programs, 0 1 2 4 10 by default

The step is a forward and a backward pass of four convolutions. Results: benchmarks/RESULTS.md
"""

from __future__ import annotations

import subprocess
import sys
import time

import torch
from torch import nn

SECONDS = 10.0
"""Of each measurement."""


def milliseconds(threads: int) -> float:
    torch.set_num_threads(threads)
    convolutions = [nn.Conv2d(a, b, 3, padding=1) for a, b in ((3, 64), (64, 64), (64, 64), (64, 3))]
    network = nn.Sequential(*(layer for conv in convolutions for layer in (conv, nn.SiLU())))
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.randn(32, 3, 32, 32)
    start, steps = time.perf_counter(), 0
    while time.perf_counter() - start < SECONDS:
        with torch.autocast("cpu", torch.bfloat16):
            loss = (network(images) - images).pow(2).mean()
        loss.backward()
        steps += 1
    return 1000 * (time.perf_counter() - start) / steps


def main() -> None:
    most = torch.get_num_threads()
    print(f"| busy programs | {most} threads | 1 thread |\n|---|---|---|")
    for busy in map(int, sys.argv[1:] or (0, 1, 2, 4, 10)):
        others = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(busy)]
        try:
            print(f"| {busy} | {milliseconds(most):.0f} ms | {milliseconds(1):.0f} ms |", flush=True)
        finally:
            for other in others:
                other.kill()


if __name__ == "__main__":
    main()
