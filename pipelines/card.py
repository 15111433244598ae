"""The model card: a README in the model's folder that says what it is and how it came about."""

from __future__ import annotations

import json
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..pretrained import read_json, write_text
from ..training.checkpoint import latest_state

ORIGIN_FILE = "origin.txt"
"""Beside imported weights: where they come from, in one line."""


def write_card(folder: Path) -> None:
    """Writes `folder/README.md` from what the folder holds: configurations, run settings, reached figures."""
    stages = [stage for stage in ("tokenizer", "prior") if (folder / stage / "config.json").exists()]
    parts = [f"# {folder.resolve().name}", _intro(folder, stages)]
    parts += [_stage(folder, stage) for stage in stages]
    parts.append(_versions())
    write_text(folder / "README.md", "\n\n".join(parts) + "\n")


def _intro(folder: Path, stages: list[str]) -> str:
    if "tokenizer" not in stages:
        return "A prior without its tokenizer, made with imgtf."
    config = read_json(folder / "tokenizer" / "config.json")
    size, channels = config["image_size"], {1: "grey", 3: "colour"}.get(config["channels"], "multi-channel")
    channels = "16-bit grey" if config.get("bit_depth") == 16 else channels
    parts = " and ".join(stages)
    lines = [f"Generates {channels} images of {size}x{size} pixels. Made with imgtf ({parts})."]
    if "prior" in stages:
        lines += ["", "```python", "from imgtf import Pipeline", ""]
        lines += [f'pictures = Pipeline.from_pretrained("{folder.name}").sample(n=16, seed=0)', "```"]
    return "\n".join(lines)


def _stage(folder: Path, stage: str) -> str:
    config = read_json(folder / stage / "config.json")
    names, sampling = config.get("class_names", []), config.get("sampling", {})
    lines = [f"## {stage.capitalize()}", ""]
    if (folder / stage / ORIGIN_FILE).exists():
        lines.append(f"- imported from {(folder / stage / ORIGIN_FILE).read_text().strip()}")
    else:
        lines += _run(folder, stage)
    if names:
        lines.append(f"- classes: {', '.join(names[:50])}{' ...' if len(names) > 50 else ''}")
    if sampling:
        settings = ", ".join(f"{name} {value}" for name, value in sampling.items() if value is not None)
        lines.append(f"- sampling settings unless told otherwise: {settings}")
    return "\n".join(lines)


def _run(folder: Path, stage: str) -> list[str]:
    run = _run_settings(folder, stage)
    lines = [f"- data: `{run.get('data', 'unknown')}`"]
    state = latest_state(folder / "training" / stage / "state")
    if state is not None:
        progress = read_json(state / "progress.json")
        best = progress["best"]
        metrics = ", ".join(f"{k} {v:.4g}" for k, v in best["metrics"].items())
        lines.append(
            f"- held out, best weights (step {best['step']} of {progress['step']}): {metrics or 'none'}"
        )
    lines.append(f"- train again: `imgtf {stage} train --config {stage}/train.toml --model NEW_FOLDER`")
    lines.append(f"- settings: `{json.dumps({k: v for k, v in run.items() if k != 'data'})}`")
    return lines


def _run_settings(folder: Path, stage: str) -> dict[str, Any]:
    path = folder / stage / "train.toml"
    return tomllib.loads(path.read_text()) if path.exists() else {}


def _versions() -> str:
    packages = ("imgtf", "torch", "accelerate", "vector-quantize-pytorch", "datasets")
    return "Versions: " + ", ".join(f"{name} {version(name)}" for name in packages) + "."
