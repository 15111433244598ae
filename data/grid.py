"""A contact sheet: many small pictures on one."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MARGIN = 2
READABLE = 64  # pixels a cell needs to be looked at, and for a caption under it
FONT_SIZE = 10


def draw_grid(
    pictures: Sequence[Image.Image],
    columns: int | None = None,
    captions: Sequence[str] | None = None,
    scale: int | None = None,
) -> Image.Image:
    """Pictures in rows on white, in RGB, in L where all of them are grey, or in I;16 where all are so.

    Args:
        pictures: any size and mode; each is centred in a cell of the largest size.
        columns: pictures in a row; as many as rows, or one more, by default.
        captions: one for each picture, in one line below it, cut where too long.
        scale: whole factor of enlargement, pixels kept sharp; by default what makes small pictures visible.

    Raises:
        ValueError: no pictures, another number of captions, or columns or scale below 1.
    """
    if not pictures:
        raise ValueError("no pictures to draw")
    if captions is not None and len(captions) != len(pictures):
        raise ValueError(f"{len(captions)} captions for {len(pictures)} pictures")
    width, height = (max(picture.size[axis] for picture in pictures) for axis in (0, 1))
    columns = math.ceil(math.sqrt(len(pictures))) if columns is None else columns
    scale = max(1, math.ceil(READABLE / width)) if scale is None else scale
    if columns < 1 or scale < 1:
        raise ValueError(f"columns and scale must be at least 1, got {columns} and {scale}")
    columns = min(columns, len(pictures))
    cell = (width * scale, height * scale)
    line = FONT_SIZE + 4 if captions is not None else 0
    mode = _mode(pictures)
    white = 65535 if mode == "I;16" else "white"
    sheet = Image.new(mode, _sheet_size(len(pictures), columns, cell, line), white)
    for number, picture in enumerate(pictures):
        left = MARGIN + number % columns * (cell[0] + MARGIN)
        top = MARGIN + number // columns * (cell[1] + line + MARGIN)
        _paste(sheet, picture, scale, cell, (left, top))
        if captions is not None:
            _write(sheet, captions[number], (left, top + cell[1] + 1), cell[0])
    return sheet


def _mode(pictures: Sequence[Image.Image]) -> str:
    modes = {picture.mode for picture in pictures}
    if modes == {"I;16"}:
        return "I;16"
    return "L" if modes <= {"1", "L", "I;16"} else "RGB"


def _sheet_size(count: int, columns: int, cell: tuple[int, int], line: int) -> tuple[int, int]:
    rows = math.ceil(count / columns)
    return MARGIN + columns * (cell[0] + MARGIN), MARGIN + rows * (cell[1] + line + MARGIN)


def _paste(
    sheet: Image.Image, picture: Image.Image, scale: int, cell: tuple[int, int], at: tuple[int, int]
) -> None:
    if picture.mode == "I;16" != sheet.mode:  # Pillow's own way down to 8 bits has changed between versions
        picture = Image.fromarray((np.asarray(picture) / 257).round().astype(np.uint8))
    large = picture if picture.mode == sheet.mode else picture.convert(sheet.mode)
    if scale > 1:
        large = large.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    place = (at[0] + (cell[0] - large.width) // 2, at[1] + (cell[1] - large.height) // 2)
    sheet.paste(large, place)


def _printable(text: str) -> str:
    """Pillow's own font knows ASCII alone: accents are dropped, other letters become question marks."""
    apart = unicodedata.normalize("NFKD", text)
    return "".join(c if c.isascii() else "?" for c in apart if not unicodedata.combining(c))


def _write(sheet: Image.Image, caption: str, at: tuple[int, int], width: int) -> None:
    font = ImageFont.load_default(FONT_SIZE)
    text = _printable(" ".join(caption.split()))
    if font.getlength(text) > width:
        while text and font.getlength(text + "…") > width:
            text = text[:-1]
        text += "…"
    ImageDraw.Draw(sheet).text(at, text, fill=0 if sheet.mode == "I;16" else "black", font=font)
