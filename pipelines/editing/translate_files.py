"""Translated and upscaled images as files: single PNGs, a grid with the inputs, and a record."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...data.decode import BadImage, load_image
from ...data.findings import some
from ...data.grid import draw_grid
from ...data.image import plain, upright
from ...errors import ConfigError, DataError
from ...pretrained import write_text
from ..names import STEM_BYTES, distinct, shortened, with_variants
from ..png import PngWriter, write_png
from ..processes import Processes
from ..request import Progress, Sample, sampling_settings
from ..sampling import Sampling
from ..score_files import find_images
from ..write import GRID_FILE, RECORD_FILE, Row, check_out, describe_run
from .translate import Sides, translated

logger = logging.getLogger("imgtf")

CELL = 256
"""Longest side of an image on the grid."""
GRID_MOST = 256
"""Most images on the grid, the inputs too."""


@dataclass(frozen=True)
class Input:
    """An image file that can be read."""

    path: Path
    size: Sides
    """Height and width in pixels, upright."""


def find_inputs(paths: Sequence[Path]) -> list[Input]:
    """Return the images among files and in folders that can be read, see `read_inputs`.

    Raises:
        DataError: a path that does not exist, a folder without images, or no image that can be read.
    """
    for path in paths:
        if not path.exists():
            raise DataError(f"{path}: no such file or folder")
    return read_inputs(find_images(paths))


def read_inputs(paths: Sequence[Path]) -> list[Input]:
    """Return the images that can be read. The others are named in one line of the log.

    Raises:
        DataError: no image can be read.
    """
    inputs: list[Input] = []
    bad: list[BadImage] = []
    for path in paths:
        try:
            image = upright(load_image(str(path), str(path)))
        except BadImage as error:
            bad.append(error)
        else:
            inputs.append(Input(path, (image.height, image.width)))
    if not inputs:
        raise bad[0] if len(bad) == 1 else DataError(f"none of the {len(bad)} images can be read: {bad[0]}")
    if bad:
        logger.warning(
            "%d of %d images cannot be read and are left out: %s", len(bad), len(paths), some(map(str, bad))
        )
    return inputs


def result_names(paths: Sequence[Path], n: int) -> list[str]:
    """Return the file names without suffix of n variants of each input: its own name, and "_1", "_2", ..."""
    stems = (shortened(path.stem, STEM_BYTES) for path in paths)
    return with_variants(distinct(stems, taken={Path(GRID_FILE).stem}), n)


def _check_sources(inputs: Sequence[Input], out: Path, names: Sequence[str]) -> None:
    """Raise a ConfigError where a file of the results in `out` is one of the inputs, under any name."""
    sources = {_identity(own.path): own.path for own in inputs}
    for file in (GRID_FILE, *(f"{name}.png" for name in names)):
        if (out / file).exists() and (source := sources.get(_identity(out / file))):
            raise ConfigError(
                f"{out / file} would replace the source image {source}: name another folder with --out"
            )


def _identity(path: Path) -> tuple[int, int]:
    """Return what only names of the same file share: links, and a, A where the disk does not tell them apart."""
    status = path.stat()
    return status.st_dev, status.st_ino


def write_translations(
    sampling: Sampling,
    inputs: Sequence[Input],
    out: Path,
    n: int,
    *,
    upscale: bool,
    seed: int = 0,
    first: int = 0,
    batch_size: int | None = None,
    force: bool = False,
    progress: Progress | None = None,
    processes: Processes | None = None,
    conditions: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Write n variants of each input into `out`, with `grid.png` and `samples.json`; return the grid's path.

    The arguments and errors are those of `write_samples` and `translated`. Several processes share the inputs. An
    input is never replaced: that is a ConfigError, with `force` too.
    """
    processes = processes or Processes()
    check_out(out, force)
    names = result_names([own.path for own in inputs], n)
    _check_sources(inputs, out, names)
    used = sampling_settings(sampling.prior.config, **settings or {})
    total = n * len(inputs)
    # As in `write_samples`: the groups must be the same in all processes.
    size = min(processes.gather(batch_size or sampling.auto_batch_size(total, used, processes.world)))
    samples = translated(
        sampling, [own.path for own in inputs], n, upscale=upscale, seed=seed, first=first, batch_size=size,
        shard=(processes.rank, processes.world), progress=progress, **conditions or {}, **settings or {},
    )  # fmt: skip
    rows = _write_images(samples, inputs, names, out, first)
    rows = sorted((row for part in processes.gather(rows) for row in part), key=lambda row: row["index"])
    if processes.is_first:
        write_png(_grid(out, inputs, rows, n), out / GRID_FILE)
        described = describe_run(sampling, used) | {"seed": seed, "batch_size": size}
        described |= {"edit": "upscale" if upscale else "translate", "images": rows}
        write_text(out / RECORD_FILE, json.dumps(described, indent=2) + "\n")
    return out / GRID_FILE


def _write_images(
    samples: Iterator[Sample], inputs: Sequence[Input], names: Sequence[str], out: Path, first: int
) -> list[Row]:
    """Write the images and return their rows of the record."""
    rows: list[Row] = []
    with PngWriter() as writer:
        for sample in samples:
            out.mkdir(
                parents=True, exist_ok=True
            )  # only now: an error before the first image leaves no folder
            place = sample.index - first
            writer.save(sample.image, out / f"{names[place]}.png")
            rows.append(
                {
                    "file": f"{names[place]}.png",
                    "index": sample.index,
                    "input": str(inputs[place * len(inputs) // len(names)].path),
                    "label": sample.label,
                    "text": sample.text,
                }
            )
    return rows


def _grid(out: Path, inputs: Sequence[Input], rows: Sequence[Row], n: int) -> Image.Image:
    """Return the inputs, each followed by its results. The results are read back, so that few are in memory."""
    shown = max(1, GRID_MOST // (n + 1))
    cells: list[Image.Image] = []
    for i, own in enumerate(inputs[:shown]):
        results = [_small(out / row["file"]) for row in rows[i * n : (i + 1) * n][: GRID_MOST - 1]]
        cells += [_shown(own.path).resize(results[0].size, Image.Resampling.BOX), *results]
    per_input = min(n + 1, GRID_MOST)
    columns = per_input * max(1, round(math.sqrt(len(cells)) / per_input))
    return draw_grid(cells, columns=columns)


def _small(path: Path) -> Image.Image:
    """Return a result, reduced where it is larger than a cell."""
    image = load_image(str(path), str(path))
    image.thumbnail((CELL, CELL))
    return image


def _shown(path: Path) -> Image.Image:
    """Return an input as RGB."""
    image = plain(load_image(str(path), str(path)), 3, "white")
    if image.mode == "F":  # 16 bits, in [0, 1]
        image = Image.fromarray((np.asarray(image) * 255).round().astype(np.uint8))
    return image.convert("RGB")
