"""Captions from a text file, one a line, and names of the images sampled from them."""

from __future__ import annotations

import logging
import re

from ..data.findings import some
from ..errors import DataError
from .names import caption_name, distinct, with_variants

logger = logging.getLogger("imgtf")

NAMED = 5
"""Empty lines that are named."""


def read_captions(data: bytes, where: str) -> list[str]:
    """Return the captions of a text file, one a line, without the spaces around them. Empty lines are said and skipped.

    Args:
        data: UTF-8, with or without a byte order mark; lines end as on any system.
        where: names the file in errors.

    Raises:
        DataError: it is not UTF-8, or has no captions.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(f"{where}: line {line} is not UTF-8; save the file as UTF-8 text") from None
    lines = [line.strip() for line in re.split("\r\n|\r|\n", text.removesuffix("\n").removesuffix("\r"))]
    empty = [str(number) for number, line in enumerate(lines, 1) if not line]
    captions = [line for line in lines if line]
    if not captions:
        raise DataError(f"{where}: no captions; write one a line")
    if empty:
        logger.warning("%s: empty lines are skipped: %s", where, some(empty, NAMED))
    return captions


def caption_files(captions: list[str], n: int) -> list[str]:
    """Return the file names without suffix of n images of each caption, see `caption_name`."""
    return with_variants(distinct(map(caption_name, captions), taken=("grid",)), n)
