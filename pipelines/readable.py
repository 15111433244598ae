"""Headers of the images of a run, and the images that cannot be read: all of them are named before the first step."""

from __future__ import annotations

import logging
from pathlib import Path

from ..data.config import DataConfig
from ..data.images import most_bad
from ..data.probe import Headers, read_headers
from ..data.source import ImageSource
from ..errors import DataError
from ..pretrained import write_text

logger = logging.getLogger("imgtf")

LIST_FILE = "unreadable-images.txt"
"""In the model folder: every image that cannot be read, where there are more than `NAMED`."""
NAMED = 5


def read_images(
    train: ImageSource, held_out: ImageSource, data: DataConfig, folder: Path | None, warn: bool = True
) -> tuple[Headers, Headers]:
    """Read the headers of both sources.

    Args:
        folder: model folder, for the list of broken images; None in all processes but the first.
        warn: log a line about broken images where there are few.

    Raises:
        DataError: more broken images than the settings allow. The message or the list in `folder` names them all.
    """
    headers = read_headers(train), read_headers(held_out)
    broken = list(dict.fromkeys(str(error) for one in headers for _, error in one.broken))
    total = sum(one.images() for one in headers) + len(broken)
    if not broken:
        return headers
    names = _names(broken, folder)
    if data.bad_images == "fail":
        raise DataError(f"{names}; repair or remove them, or use --bad-images skip")
    if len(broken) > most_bad(total):
        raise DataError(
            f"{len(broken)} of {total} images cannot be read, more than 1 %: {names}; repair or remove them"
        )
    if warn:
        logger.warning("%d of %d images cannot be read and are left out: %s", len(broken), total, names)
    return headers


def _names(broken: list[str], folder: Path | None) -> str:
    """The broken images with the reasons. Many are written to a file, and the first ones returned."""
    text = "; ".join(broken[:NAMED])
    if len(broken) <= NAMED or folder is None:
        return text
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / LIST_FILE, "".join(f"{error}\n" for error in broken))
    return f"{text}; all {len(broken)} are listed in {folder / LIST_FILE}"
