"""Samples as files: single PNGs, a labelled contact sheet, and a record from which any can be made again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image

from ..data.grid import draw_grid
from ..errors import ConfigError
from ..pretrained import write_text
from ..prior.config import SamplingConfig
from .pipeline import Labels, Pipeline, Progress, Sample, Sources, Texts
from .png import PngWriter, write_png
from .processes import Processes

GRID_FILE, RECORD_FILE = "grid.png", "samples.json"
GRID_MOST = 1024
"""Pictures on the contact sheet at most."""

Row = dict[str, Any]
"""What the record says of one image."""


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
    batch_size: int | None = None,
    force: bool = False,
    progress: Progress | None = None,
    processes: Processes | None = None,
    **settings: Any,
) -> Path:
    """Samples n images into `out` as 000000.png, ... with `grid.png` and `samples.json`; returns the grid's path.

    Of several processes each makes its share of the batches; the first one writes the other two files once all
    images are there. Arguments as for `Pipeline.stream`.

    Raises:
        ConfigError: when `out` already holds samples and `force` is not given.
        ImgtfError: when a file cannot be written, or another process is gone.
    """
    processes = processes or Processes()
    if (out / RECORD_FILE).exists() and not force:
        raise ConfigError(f"{out} already holds samples: name another folder with --out, or use --force")
    used = pipeline.settings(**settings)
    # What is free differs from process to process; the batches must not.
    size = min(processes.gather(batch_size or pipeline.batch_size(n, used, processes.world)))
    stream = pipeline.stream(
        n, label, text=text, source=source, seed=seed, first=first, batch_size=size,
        part=(processes.rank, processes.world), progress=progress, **settings,
    )  # fmt: skip
    rows, shown = _write_images(stream, out, first + GRID_MOST if processes.is_first else 0)
    rows = sorted((row for part in processes.gather(rows) for row in part), key=lambda row: row["index"])
    if processes.is_first:
        _write_grid(out, rows[:GRID_MOST], shown)
        record = _describe(pipeline, used) | {"seed": seed, "batch_size": size, "images": rows}
        write_text(out / RECORD_FILE, json.dumps(record, indent=2) + "\n")
    return out / GRID_FILE


def _write_images(
    stream: Iterable[Sample], out: Path, shown_before: int
) -> tuple[list[Row], dict[str, Image.Image]]:
    """Writes the images. Returns what the record says of each, and by file the pictures below number `shown_before`."""
    rows: list[Row] = []
    shown: dict[str, Image.Image] = {}
    with PngWriter() as writer:
        for made in stream:
            out.mkdir(parents=True, exist_ok=True)
            file = f"{made.index:06d}.png"
            writer.save(made.picture, out / file)
            rows.append({"file": file, "index": made.index, "label": made.label, "text": made.text})
            if made.index < shown_before:
                shown[file] = made.picture
    return rows, shown


def _describe(pipeline: Pipeline, settings: SamplingConfig) -> Row:
    """What the record says of all images: what made them, and how."""
    return {
        "format": 1,
        "imgtf": version("imgtf"),
        "settings": asdict(settings),
        "tokenizer_sha256": pipeline.tokenizer.weights_sha256(),
        "prior_sha256": pipeline.prior_sha256(),
        "dtype": str(pipeline.dtype).removeprefix("torch."),
        "compile": pipeline.compile,
        "capture": pipeline.capture and pipeline.prior.device.type == "cuda",
    }


def _write_grid(out: Path, rows: list[Row], own: Mapping[str, Image.Image]) -> None:
    """The contact sheet; pictures that other processes made are read back from disk."""
    pictures = [own[row["file"]] if row["file"] in own else _read(out / row["file"]) for row in rows]
    captions = [row["text"] or row["label"] or "" for row in rows]
    write_png(draw_grid(pictures, captions=captions if any(captions) else None), out / GRID_FILE)


def _read(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        picture.load()
        return picture
