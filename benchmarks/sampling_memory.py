"""Memory of sampling, compared with what `imgtf sample --dry-run` states. Random weights, real sizes.

    python benchmarks/sampling_memory.py [--preset base] [--batch-sizes 1 8 32] [--cfg-scale 1]

Each batch size is sampled in a process of its own, which also writes images and grid. `base` is the memory of that
process before it loads a model (Python, torch, imgtf), `peak` its largest resident memory (Linux). Prints one JSON
object.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from imgtf.bench.networks import random_networks
from imgtf.pipelines.memory import sampling_memory
from imgtf.pipelines.pipeline import Pipeline
from imgtf.prior.config import SamplingConfig
from imgtf.runtime.machine import describe_machine

SAMPLE = """
import json, re, sys, time
from pathlib import Path
from imgtf.pipelines.pipeline import Pipeline
from imgtf.pipelines.write import write_samples
def memory(name):  # getrusage would include the memory of the parent process
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
model, out, n, cfg_scale = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
base, start = memory("VmRSS"), time.perf_counter()
pipeline = Pipeline.from_pretrained(model, "cpu", precision="fp32")
write_samples(pipeline, Path(out), n, batch_size=n, settings={"cfg_scale": cfg_scale})
print(json.dumps({"base_mib": base, "peak_mib": memory("VmHWM"), "seconds": time.perf_counter() - start}))
"""


def measure(model: Path, out: Path, batch_size: int, cfg_scale: float) -> dict[str, Any]:
    """Sample one batch in a process of its own; return its memory and time."""
    command = [sys.executable, "-c", SAMPLE, str(model), str(out), str(batch_size), str(cfg_scale)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--preset", default="base")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--cfg-scale", type=float, default=1.0)
    args = parser.parse_args()
    report: dict[str, Any] = {"machine": describe_machine(torch.device("cpu")), "preset": args.preset}
    settings = SamplingConfig(cfg_scale=args.cfg_scale)
    with tempfile.TemporaryDirectory() as name:
        pipeline = Pipeline(*random_networks(args.preset, torch.device("cpu")))
        pipeline.save_pretrained(Path(name) / "model")
        configs = pipeline.prior.config, pipeline.tokenizer.config
        del pipeline
        for size in args.batch_sizes:
            measured = measure(Path(name) / "model", Path(name) / f"out-{size}", size, args.cfg_scale)
            stated = sampling_memory(*configs, size, grid_images=size, settings=settings).peak / 2**20
            taken = measured["peak_mib"] - measured["base_mib"]
            measured |= {"taken_mib": taken, "stated_mib": stated, "stated_by_taken": stated / taken}
            report[f"batch size {size}"] = measured
            print(f"batch size {size}: {measured['seconds']:.0f} s", file=sys.stderr)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
