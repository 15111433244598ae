"""Load test of `imgtf serve` on loopback, beside `imgtf sample` at the same batch size.

    python benchmarks/serving_load.py MODEL [--clients 16] [--batch-size 16] [-n 1,4] [--seconds 30] [--rounds 5]

Each round measures, in turn:
- `imgtf sample`: images per second of sampling and writing, from the difference between two runs of the command with
  different numbers of images, so that loading the model does not count.
- `imgtf serve`: images per second with clients that each send a request, read the images and send the next one, and
  the latency of the requests. Once for each number of images per request. Every image has a seed of its own.

Both are processes of their own, and the clients a third one on the same cores. Prints a Markdown table of medians over
the rounds, and one JSON object with all rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import numpy as np

SHORT, LONG = 4, 24
"""Batches of the two runs of `imgtf sample`."""
WARM_UP = 3.0
"""Seconds before the measurement."""
IMGTF = [sys.executable, "-m", "imgtf"]


def sample_rate(model: Path, batch_size: int) -> float:
    """Return images per second of `imgtf sample`."""
    short, long = (_sample_seconds(model, batches * batch_size, batch_size) for batches in (SHORT, LONG))
    return (LONG - SHORT) * batch_size / (long - short)


def _sample_seconds(model: Path, n: int, batch_size: int) -> float:
    with tempfile.TemporaryDirectory() as out:
        command = [*IMGTF, "sample", "--model", str(model), "--out", out, "--n", str(n)]
        start = time.perf_counter()
        subprocess.run([*command, "--batch-size", str(batch_size)], check=True, capture_output=True)
        return time.perf_counter() - start


@contextmanager
def server(model: Path, batch_size: int, *options: str) -> Iterator[str]:
    """Run `imgtf serve`, and yield its address."""
    command = [
        *IMGTF,
        "serve",
        str(model),
        "--port",
        "0",
        "--json",
        "--batch-size",
        str(batch_size),
        *options,
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["address"]
    finally:
        process.terminate()
        assert process.wait(60) == 0


async def load(address: str, clients: int, n: int, seconds: float) -> dict[str, float]:
    """Return images per second and latencies (in seconds) of clients that ask again and again."""
    seeds, latencies, images = count(), [], []
    start = time.perf_counter() + WARM_UP
    end = start + seconds

    async def client(connection: httpx.AsyncClient) -> None:
        while (sent := time.perf_counter()) < end:
            answer = await connection.post("/v1/images/generations", json={"n": n, "seed": next(seeds)})
            got = [base64.b64decode(one["b64_json"]) for one in answer.raise_for_status().json()["data"]]
            now = time.perf_counter()
            if start <= now < end:
                images.append(len(got))
                latencies.append(now - sent)

    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(base_url=address, timeout=120, limits=limits) as connection:
        await asyncio.gather(*(client(connection) for _ in range(clients)))
        metrics = (await connection.get("/metrics")).text
    return {
        "images_per_second": sum(images) / seconds,
        "p50": float(np.percentile(latencies, 50)),
        "p95": float(np.percentile(latencies, 95)),
        "requests": len(latencies),
        "mean_batch": _metric(metrics, "imgtf_batch_size_sum") / _metric(metrics, "imgtf_batch_size_count"),
    }


def _metric(text: str, name: str) -> float:
    return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"{name} "))


def table(rounds: list[dict[str, Any]], given: argparse.Namespace) -> str:
    """Return the medians as Markdown."""
    base = median(one["sample"] for one in rounds)
    lines = [
        "| | images per second | of `imgtf sample` | p50 | p95 | mean batch |",
        "|---|---|---|---|---|---|",
        f"| `imgtf sample --batch-size {given.batch_size}` | {base:.1f} | 1 | | | {given.batch_size} |",
    ]
    for n in given.n:
        runs = [one["serve"][str(n)] for one in rounds]
        rate, p50, p95, batch = (
            median(run[key] for run in runs) for key in ("images_per_second", "p50", "p95", "mean_batch")
        )
        name = f"`imgtf serve`, {given.clients} clients, n = {n}"
        times = f"{p50 * 1000:.0f} ms | {p95 * 1000:.0f} ms"
        lines.append(f"| {name} | {rate:.1f} | {rate / base:.2f} | {times} | {batch:.1f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, and print the table and all rounds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("-n", type=lambda text: [int(n) for n in text.split(",")], default=[1, 4])
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    rounds = []
    for _ in range(given.rounds):
        own: dict[str, Any] = {"sample": sample_rate(given.model, given.batch_size), "serve": {}}
        for n in given.n:
            with server(given.model, given.batch_size) as address:
                own["serve"][str(n)] = asyncio.run(load(address, given.clients, n, given.seconds))
        print(json.dumps(own), file=sys.stderr, flush=True)
        rounds.append(own)
    print(table(rounds, given))
    print(json.dumps({"batch_size": given.batch_size, "clients": given.clients, "rounds": rounds}))


if __name__ == "__main__":
    main()
