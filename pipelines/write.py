"""Samples as files: single PNGs, a labelled contact sheet, and a record from which any can be made again."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image

from ..data.grid import draw_grid
from ..errors import ConfigError
from ..pretrained import write_text
from .pipeline import Labels, Pipeline, Progress, Sources, Texts

GRID_FILE, RECORD_FILE = "grid.png", "samples.json"
GRID_MOST = 1024
"""Pictures on the contact sheet at most."""


def free_folder(samples: Path) -> Path:
    """The next unused numbered folder under `samples`: 001, 002, ..."""
    taken = [int(p.name) for p in samples.glob("[0-9]*") if p.name.isdigit()]
    return samples / f"{max(taken, default=0) + 1:03d}"


def write_samples(
    pipeline: Pipeline,
    out: Path,
    n: int,
    label: Labels = None,
    *,
    text: Texts = None,
    source: Sources = None,
    seed: int = 0,
    first: int = 0,
    batch_size: int = 64,
    force: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> Path:
    """Samples n images into `out` as 000000.png, ... with `grid.png` and `samples.json`; returns the grid's path.

    Arguments as for `Pipeline.stream`.

    Raises:
        ConfigError: when `out` already holds samples and `force` is not given.
    """
    if (out / RECORD_FILE).exists() and not force:
        raise ConfigError(f"{out} already holds samples: name another folder with --out, or use --force")
    used = pipeline.settings(**settings)
    stream = pipeline.stream(
        n,
        label,
        text=text,
        source=source,
        seed=seed,
        first=first,
        batch_size=batch_size,
        progress=progress,
        **settings,
    )
    pictures: list[Image.Image] = []
    captions: list[str] = []
    rows: list[dict[str, Any]] = []
    for made in stream:
        out.mkdir(parents=True, exist_ok=True)
        name = f"{made.index:06d}.png"
        made.picture.save(out / name)
        rows.append({"file": name, "index": made.index, "label": made.label, "text": made.text})
        if len(pictures) < GRID_MOST:
            pictures.append(made.picture)
            captions.append(made.text or made.label or "")
    draw_grid(pictures, captions=captions if any(captions) else None).save(out / GRID_FILE)
    record = {
        "format": 1,
        "imgtf": version("imgtf"),
        "seed": seed,
        "settings": asdict(used),
        "tokenizer_sha256": pipeline.tokenizer.weights_sha256(),
        "prior_sha256": pipeline.prior.weights_sha256(),
        "images": rows,
    }
    write_text(out / RECORD_FILE, json.dumps(record, indent=2) + "\n")
    return out / GRID_FILE
