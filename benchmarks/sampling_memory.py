"""What sampling takes in memory against what `imgtf sample --dry-run` says. Random weights, real sizes.

    python benchmarks/sampling_memory.py [--preset base] [--batches 1 8 32] [--guidance 1]

Each batch is sampled in a process of its own, images and contact sheet included. `base` is what that process held
before any model was loaded (Python, torch, imgtf), `peak` its largest resident memory (Linux). It prints one JSON
object.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from imgtf.bench.machine import describe_machine
from imgtf.bench.run import random_networks
from imgtf.pipelines.memory import sampling_memory
from imgtf.pipelines.pipeline import Pipeline
from imgtf.prior.config import SamplingConfig

SAMPLE = """
import json, re, sys, time
from pathlib import Path
from imgtf.pipelines.pipeline import Pipeline
from imgtf.pipelines.write import write_samples
def held(name):  # not getrusage, which starts from what the parent process took
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
model, out, batch, guidance = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
base, start = held("VmRSS"), time.perf_counter()
write_samples(Pipeline.from_pretrained(model), Path(out), batch, batch_size=batch, cfg_scale=guidance)
print(json.dumps({"base_mib": base, "peak_mib": held("VmHWM"), "seconds": time.perf_counter() - start}))
"""


def measure(model: Path, out: Path, batch: int, guidance: float) -> dict[str, Any]:
    """The figures of one process."""
    command = [sys.executable, "-c", SAMPLE, str(model), str(out), str(batch), str(guidance)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("--preset", default="base")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--guidance", type=float, default=1.0)
    given = parser.parse_args()
    report: dict[str, Any] = {"machine": describe_machine(torch.device("cpu")), "preset": given.preset}
    with tempfile.TemporaryDirectory() as name:
        pipeline = Pipeline(*random_networks(given.preset, torch.device("cpu")))
        pipeline.save_pretrained(Path(name) / "model")
        configs = pipeline.prior.config, pipeline.tokenizer.config
        del pipeline
        for batch in given.batches:
            start = time.perf_counter()
            figures = measure(Path(name) / "model", Path(name) / f"out-{batch}", batch, given.guidance)
            settings = SamplingConfig(cfg_scale=given.guidance)
            stated = sampling_memory(*configs, batch, kept=batch, settings=settings).peak / 2**20
            taken = figures["peak_mib"] - figures["base_mib"]
            figures |= {"taken_mib": taken, "stated_mib": stated, "stated_over_taken": stated / taken}
            report[f"batch {batch}"] = figures
            print(f"batch {batch}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
