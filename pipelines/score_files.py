"""Scores of image files as a ranking in CSV, heat maps, and a sheet of the most unlikely images."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ..data.decode import BadImage
from ..data.files import image_suffixes, list_files
from ..data.grid import draw_grid
from ..errors import DataError
from ..pretrained import write_text
from .files import reconstruction_files
from .heatmap import enlarge
from .models import Models
from .png import PngWriter, write_png
from .request import Progress
from .scoring import Score, score

logger = logging.getLogger("imgtf")

SCORES_FILE, SHEET_FILE, MAPS_FOLDER = "scores.csv", "most-unlikely.png", "maps"
SHEET_MOST, SHEET_COLUMNS = 12, 6
"""Images on the sheet, and its columns: each image takes two, itself and its heat map."""
NAMED_MOST = 10
"""Unreadable images that are named."""

Row = dict[str, Any]
"""One image in the ranking."""


def find_images(paths: Sequence[Path]) -> list[Path]:
    """Return the image files among files and in folders, with their sub-folders.

    Raises:
        DataError: a folder without images.
    """
    found: list[Path] = []
    for path in paths:
        own = [path]
        if path.is_dir():
            own = [path / file.path for file in list_files(path) if file.suffix in image_suffixes()]
        if not own:
            raise DataError(f"{path}: no image files in this folder")
        found += own
    return list(dict.fromkeys(found))


def write_scores(
    models: Models, images: Sequence[Path], out: Path, kind: str, progress: Progress, **given: Any
) -> Row:
    """Score image files, write the results into a folder and return a summary.

    Images that cannot be read are named in the log and left out.

    Args:
        kind: of the heat maps, "unusual" or "bits".
        progress: called with the number of images done since the last call.
        given: keyword arguments of `score`.

    Raises:
        DataError: no image can be read. Nothing is written then.
    """
    bad: list[BadImage] = []
    scores = score(models, list(images), on_bad_image=bad.append, progress=progress, **given)
    files = dict(zip(map(str, images), reconstruction_files(images, out / MAPS_FOLDER), strict=True))
    rows, unlikely = _write_maps(scores, files, out, kind)
    _name_unreadable(bad, len(images))
    rows.sort(key=lambda row: -row["bits_per_token"])
    for rank, row in enumerate(rows, 1):
        row["rank"] = rank
    write_text(out / SCORES_FILE, _csv(rows))
    write_png(_sheet(unlikely, kind), out / SHEET_FILE)
    return _summary(rows, out, len(bad))


def _write_maps(
    scores: Iterable[Score], files: dict[str, Path], out: Path, kind: str
) -> tuple[list[Row], list[Score]]:
    """Write the heat maps, and return the rows and the scores of the most unlikely images, these first."""
    rows: list[Row] = []
    unlikely: list[Score] = []
    with PngWriter() as writer:
        for own in scores:
            file = files[own.name]
            file.parent.mkdir(parents=True, exist_ok=True)  # only now: without a readable image, no folder
            writer.save(own.heatmap(kind), file)
            rows.append(
                {
                    "file": own.name,
                    "bits_per_token": own.bits_per_token,
                    "bits_per_pixel": own.bits_per_pixel,
                    "map": file.relative_to(out).as_posix(),
                }
            )
            unlikely = sorted([*unlikely, own], key=lambda s: -s.bits_per_token)[:SHEET_MOST]
    return rows, unlikely


def _name_unreadable(bad: Sequence[BadImage], images: int) -> None:
    for error in bad[:NAMED_MOST]:
        logger.warning("left out: %s", error)
    if len(bad) > NAMED_MOST:
        logger.warning("left out: %d more images that cannot be read", len(bad) - NAMED_MOST)
    if len(bad) == images:
        raise DataError(f"{bad[0]}" if images == 1 else f"none of the {images} images can be read")


def _csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    columns = ("rank", "file", "bits_per_token", "bits_per_pixel", "map")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(row | {name: f"{row[name]:.5f}" for name in ("bits_per_token", "bits_per_pixel")})
    return text.getvalue()


def _sheet(unlikely: Sequence[Score], kind: str) -> Image.Image:
    """Return the most unlikely images, each beside its heat map."""
    pairs = [picture for own in unlikely for picture in (enlarge(own.image), own.heatmap(kind))]
    captions = [
        text
        for rank, own in enumerate(unlikely, 1)
        for text in (f"{rank}. {_short(own.name)}", f"{own.bits_per_token:.3f} bits per token")
    ]
    return draw_grid(pairs, columns=SHEET_COLUMNS, captions=captions, scale=1)


def _short(name: str) -> str:
    """Return the name of a file with its folder, which is often its class."""
    return "/".join(Path(name).parts[-2:])


def _summary(rows: Sequence[Row], out: Path, unreadable: int) -> Row:
    bits = [row["bits_per_token"] for row in rows]
    return {
        "images": len(rows),
        "unreadable": unreadable,
        "bits_per_token": sum(bits) / len(bits),
        "bits_per_pixel": sum(row["bits_per_pixel"] for row in rows) / len(rows),
        "most_unlikely": rows[0]["file"],
        "least_unlikely": rows[-1]["file"],
        "scores": str(out / SCORES_FILE),
        "sheet": str(out / SHEET_FILE),
        "maps": str(out / MAPS_FOLDER),
    }
