"""A long run of the tokenizer: does its memory or its time per step grow?

    python benchmarks/soak.py --data my-images --minutes 30 --out soak

Trains with one thread until `--minutes` are over, and reads the memory (resident set) and the processor time of the
process every 10 seconds. Processor time per step, not wall-clock time, because it depends less on what else the machine
does. Writes `soak.png` and prints the means of the second and the last tenth of the run, and their ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil

INTERVAL = 10.0
"""Seconds between two readings."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="digits")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--out", type=Path, default=Path("soak"))
    given = parser.parse_args()
    readings = watch(given.data, given.minutes, given.out / "model")
    report(readings, given.out / "soak.png")


def watch(data: str, minutes: float, model: Path) -> np.ndarray:
    """Train, and return (n, 4) readings: seconds, megabytes, processor seconds, steps."""
    command = [sys.executable, "-m", "imgtf", "tokenizer", "train", "--data", data, "--model", str(model)]
    command += ["--steps", "10000000", "--max-minutes", str(minutes), "--log-every", "20", "--force"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    readings = []
    model.parent.mkdir(parents=True, exist_ok=True)
    with (model.parent / "soak.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stderr=log, stdout=log)
        watched, start = psutil.Process(process.pid), time.monotonic()
        while process.poll() is None:
            time.sleep(INTERVAL)
            try:
                memory, times = watched.memory_info().rss / 2**20, watched.cpu_times()
            except psutil.NoSuchProcess:
                break
            if memory:  # 0 of a process that has just ended
                readings.append((time.monotonic() - start, memory, times.user + times.system, steps(model)))
    return np.array(readings)


def steps(model: Path) -> int:
    """The last step in the log of the run."""
    log = model / "training" / "tokenizer" / "log.jsonl"
    if not log.exists():
        return 0
    lines = log.read_text().splitlines()
    return json.loads(lines[-1])["step"] if lines else 0


def report(readings: np.ndarray, path: Path) -> None:
    """Print means of the second and the last tenth, and plot both courses."""
    from matplotlib.figure import Figure

    seconds, memory, processor, done = readings.T
    tenth = len(readings) // 10
    early, late = slice(tenth, 2 * tenth), slice(-tenth, None)
    cost = (processor[tenth:] - processor[:-tenth]) / np.maximum(1, done[tenth:] - done[:-tenth])
    for name, values in (("memory, MB", memory), ("processor seconds per step", cost)):
        a, b = values[early].mean(), values[late].mean()
        print(f"{name}: {a:.4g} in the second tenth, {b:.4g} in the last, ratio {b / a:.3f}")
    print(f"{int(done[-1])} steps in {seconds[-1] / 60:.1f} minutes")
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(seconds / 60, memory)
    left.set(xlabel="minutes", ylabel="resident memory, MB", ylim=(0, None))
    right.plot(seconds[tenth:] / 60, cost)
    right.set(xlabel="minutes", ylabel="processor seconds per step", ylim=(0, None))
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
