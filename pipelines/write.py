"""Samples as files: single PNGs, a labelled grid, and a record from which any image can be sampled again."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image

from ..data.grid import draw_grid
from ..errors import ConfigError
from ..pretrained import write_text
from ..prior.config import SamplingConfig
from .canvas import Canvas
from .files import check_writable
from .png import PngWriter, write_png
from .processes import Processes
from .request import Progress, Sample, sampling_settings
from .sampling import Sampling

GRID_FILE, RECORD_FILE = "grid.png", "samples.json"
GRID_MOST = 1024
"""Most images on the grid."""
SHOWN_COLUMNS = 8
"""Most images in a row of a grid that starts with what was edited."""

Row = dict[str, Any]
"""One image in the record."""


@contextmanager
def results_in(out: Path | None, numbered: Path, processes: Processes | None = None) -> Iterator[Path]:
    """Yield `out`, or the next free numbered folder in `numbered`: 001, 002, ...

    The first process creates that folder at once, so that no other run takes it. It is removed again where nothing was
    written into it, with the folders above it that were created too.
    """
    processes = processes or Processes()
    created: list[Path] = []
    try:
        if out is None and processes.is_first:
            created = _create_free(numbered)
        yield out or processes.gather(created[0] if created else None)[0]
    finally:
        with suppress(OSError):  # it holds results
            for folder in created:
                folder.rmdir()


def _create_free(numbered: Path) -> list[Path]:
    """Create the next free folder in `numbered`. Return all folders created, innermost first."""
    check_writable(numbered)
    above = [path for path in (numbered, *numbered.parents) if not path.exists()]
    numbered.mkdir(parents=True, exist_ok=True)
    taken = [int(p.name) for p in numbered.glob("[0-9]*") if p.name.isdigit()]
    for number in itertools.count(max(taken, default=0) + 1):
        with suppress(FileExistsError):  # another run has just taken it
            folder = numbered / f"{number:03d}"
            folder.mkdir()
            return [folder, *above]
    raise AssertionError("numbers never end")


def write_samples(
    pipeline: Sampling,
    out: Path,
    n: int,
    *,
    seed: int = 0,
    first: int = 0,
    batch_size: int | None = None,
    force: bool = False,
    progress: Progress | None = None,
    processes: Processes | None = None,
    conditions: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    canvas: Canvas | Sequence[Canvas] | None = None,
    names: Sequence[str] | None = None,
    record: Mapping[str, Any] | None = None,
) -> Path:
    """Sample n images into `out` as single PNGs with `grid.png` and `samples.json`; return the grid's path.

    With several processes each samples some of the batches; the first writes the grid and the record when all
    images are there.

    Args:
        conditions: arguments of `Pipeline.stream` by name (label, text, features, image).
        settings: fields of `SamplingConfig` by name.
        canvas: see `Pipeline.stream`. Of several canvases each is filled n times, with the same random numbers; the
            grid has a row per image and a column per canvas.
        names: file names without suffix, one per image; default: the six digits of each image's number.
        record: entries to add to `samples.json`, such as the images that were edited.

    Raises:
        ConfigError: when `out` holds files and `force` is not given.
        ImgtfError: when a file cannot be written, or another process has ended.
    """
    processes = processes or Processes()
    check_out(out, force)
    used = sampling_settings(pipeline.prior.config, **settings or {})
    # Free memory differs from process to process; the batches must not. No process writes before all have checked.
    size = min(processes.gather(batch_size or pipeline.auto_batch_size(n, used, processes.world)))
    canvases = canvas if isinstance(canvas, Sequence) else [canvas]
    streams = [
        pipeline.stream(
            n, seed=seed, first=first, batch_size=size, shard=(processes.rank, processes.world), progress=progress,
            canvas=one, **conditions or {}, **settings or {},
        )
        for one in canvases
    ]  # fmt: skip
    stems = {first + i: name for i, name in enumerate(names or ())}
    rows, kept = _write_images(streams, out, stems, first + GRID_MOST if processes.is_first else 0)
    rows = sorted((row for part in processes.gather(rows) for row in part), key=_place)
    if processes.is_first:
        _write_grid(out, rows[:GRID_MOST], kept, canvases)
        described = describe_run(pipeline, used) | {"seed": seed, "batch_size": size} | dict(record or {})
        described["images"] = rows
        write_text(out / RECORD_FILE, json.dumps(described, indent=2) + "\n")
    return out / GRID_FILE


def check_out(folder: Path, force: bool) -> None:
    """Raise a ConfigError for a folder that holds files, unless `force` is given, or that cannot be written."""
    if folder.is_dir() and any(folder.iterdir()) and not force:
        raise ConfigError(f"{folder} is not empty: name another folder with --out, or add --force")
    check_writable(folder)


def _write_images(
    streams: Sequence[Iterable[Sample]], out: Path, stems: Mapping[int, str], keep_below: int
) -> tuple[list[Row], dict[str, Image.Image]]:
    """Write the images. Return their rows of the record, and by file name the images numbered below `keep_below`."""
    rows: list[Row] = []
    kept: dict[str, Image.Image] = {}
    with PngWriter() as writer:
        for number, stream in enumerate(streams):
            end, step = (f"-{number:02d}", {"step": number}) if len(streams) > 1 else ("", {})
            for sample in stream:
                out.mkdir(parents=True, exist_ok=True)
                file = f"{stems.get(sample.index, f'{sample.index:06d}')}{end}.png"
                writer.save(sample.image, out / file)
                row = {"file": file, "index": sample.index, "label": sample.label, "text": sample.text}
                rows.append(row | step)
                if sample.index < keep_below:
                    kept[file] = sample.image
    return rows, kept


def _place(row: Row) -> tuple[int, int]:
    """Place of an image in the record and on the grid."""
    return row["index"], row.get("step", 0)


def describe_run(pipeline: Sampling, settings: SamplingConfig) -> Row:
    """The models and settings of all images, for the record."""
    return {
        "format": 1,
        "imgtf": version("imgtf"),
        "settings": asdict(settings),
        "tokenizer_sha256": pipeline.tokenizer.weights_sha256(),
        "prior_sha256": pipeline.prior_sha256(),
        "precision": pipeline.precision,
        "compile": pipeline.decoder.compile,
        "capture": pipeline.decoder.capture,
    }


def _write_grid(
    out: Path, rows: list[Row], kept: Mapping[str, Image.Image], canvases: Sequence[Canvas | None]
) -> None:
    """Write the labelled grid; images of other processes are read back from disk."""
    shown = canvases[0].shown if canvases[0] else ()
    images = [kept[row["file"]] if row["file"] in kept else _read(out / row["file"]) for row in rows]
    captions = [*(caption for caption, _ in shown), *(row["text"] or row["label"] or "" for row in rows)]
    columns = len(canvases) if len(canvases) > 1 else min(len(captions), SHOWN_COLUMNS) if shown else None
    grid = draw_grid([*(image for _, image in shown), *images], columns, captions if any(captions) else None)
    write_png(grid, out / GRID_FILE)


def _read(path: Path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
        return image
