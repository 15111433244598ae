"""Time and memory of importing full-size published models, and a sample of the imported pair. Random weights.

    python benchmarks/import_sizes.py [B L XL XXL 3B]

Writes files in LlamaGen's format (the sizes B and L by default) and imports each in a process of its own. `peak` is the
largest resident memory of that process (Linux), `base` its memory before the import (Python, torch, imgtf). The file is
memory-mapped, so its pages count. Prints one JSON object.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from imgtf.interop import llamagen
from imgtf.interop.stage import number_names, shapes
from imgtf.prior.conditions.label import LabelConfig
from imgtf.prior.config import PriorConfig
from imgtf.runtime.machine import describe_machine
from imgtf.tokenizer.config import TokenizerConfig

DS16 = TokenizerConfig(
    image_size=256, width=128, multipliers=(1, 1, 2, 2, 4), blocks=2, attention_levels=(4,), latent_width=256,
    codebook_size=16384, codebook_dim=8,
)  # fmt: skip
GPT = {
    "B": (12, 12, 768),
    "L": (24, 16, 1024),
    "XL": (36, 20, 1280),
    "XXL": (48, 24, 1536),
    "3B": (24, 32, 3200),
}
"""Layers, heads, width (LlamaGen, arXiv:2406.06525)."""
IMPORT = """
import json, re, sys, time
from pathlib import Path
from imgtf.pipelines.exchange import import_weights
def peak():  # getrusage would include the memory of the parent process
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
base, start = peak(), time.perf_counter()
import_weights("auto", [Path(sys.argv[1])], Path(sys.argv[2]))
print(json.dumps({"seconds": time.perf_counter() - start, "base_mib": base, "peak_mib": peak()}))
"""
SAMPLE = """
import json, sys, time
from imgtf import Pipeline
pipeline = Pipeline.from_pretrained(sys.argv[1])
start = time.perf_counter()
images = pipeline.sample(n=4, seed=0)
print(json.dumps({"images": len(images), "size": images[0].size, "seconds": time.perf_counter() - start}))
"""


def prior_config(size: str) -> PriorConfig:
    """Return the configuration of a published class-conditional prior."""
    depth, heads, width = GPT[size]
    return PriorConfig(
        grid=(16, 16), codebook_size=16384, conditions=(LabelConfig(class_names=number_names(1000)),),
        width=width, depth=depth, heads=heads, intermediate_size=-(-8 * width // 3 // 256) * 256,
        positions="none", zero_condition=True,
    )  # fmt: skip


def write_random(config: TokenizerConfig | PriorConfig, path: Path) -> None:
    """Write a file as LlamaGen publishes it, with small random weights."""
    is_tokenizer = isinstance(config, TokenizerConfig)
    entries = llamagen.tokenizer_entries(config) if is_tokenizer else llamagen.prior_entries(config)
    own = shapes(config)
    state = {name: torch.randn(e.shape(own[e.ours])) * 0.02 for e in entries for name in e.theirs}
    torch.save({"model": state, "steps": 0}, path)


def run(code: str, *arguments: str) -> dict[str, Any]:
    """Run the code in a process of its own; return the JSON object that it prints."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(config: TokenizerConfig | PriorConfig, folder: Path, model: Path) -> dict[str, Any]:
    """Write a file, import it, and compare the memory with the file's size."""
    path = folder / "weights.pt"
    write_random(config, path)
    size = path.stat().st_size / 2**20
    measured = run(IMPORT, str(path), str(model)) | {"file_mib": size}
    path.unlink()
    measured["peak_above_base_by_file"] = (measured["peak_mib"] - measured["base_mib"]) / size
    measured["peak_by_file"] = measured["peak_mib"] / size
    return measured


def main(sizes: list[str]) -> None:
    report: dict[str, Any] = {"machine": describe_machine(torch.device("cpu"))}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        report["ds16 tokenizer"] = measure(DS16, folder, folder / "model")
        for size in sizes:
            model = folder / ("model" if size == "B" else f"model-{size}")  # B is sampled with the tokenizer
            report[f"GPT-{size}"] = measure(prior_config(size), folder, model)
        if "B" in sizes:
            report["sample"] = run(SAMPLE, str(folder / "model"))
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main(sys.argv[1:] or ["B", "L"])
