"""A grid of images with optional captions, as one image."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MARGIN = 2
READABLE = 64  # pixels per cell that make an image and its caption readable
FONT_SIZE = 10


def draw_grid(
    images: Sequence[Image.Image],
    columns: int | None = None,
    captions: Sequence[str] | None = None,
    scale: int | None = None,
) -> Image.Image:
    """Return a grid of images on white: mode L if all are grey, I;16 if all are I;16, else RGB.

    Args:
        images: any size and mode, each centred in a cell of the largest size.
        columns: images per row; by default about as many pixels across as down.
        captions: one per image, on one line below it, truncated if too long.
        scale: whole enlargement factor without smoothing; by default cells of at least 64 pixels each way.

    Raises:
        ValueError: no images, a different number of captions, or columns or scale below 1.
    """
    if not images:
        raise ValueError("no images for a grid")
    if captions is not None and len(captions) != len(images):
        raise ValueError(f"{len(captions)} captions for {len(images)} images")
    width, height = (max(image.size[axis] for image in images) for axis in (0, 1))
    columns = math.ceil(math.sqrt(len(images) * height / width)) if columns is None else columns
    scale = math.ceil(READABLE / min(width, height)) if scale is None else scale
    if columns < 1 or scale < 1:
        raise ValueError(f"columns and scale must be at least 1, got {columns} and {scale}")
    columns = min(columns, len(images))
    cell = (width * scale, height * scale)
    line = FONT_SIZE + 4 if captions is not None else 0
    mode = _mode(images)
    white = 65535 if mode == "I;16" else "white"
    sheet = Image.new(mode, _sheet_size(len(images), columns, cell, line), white)
    for number, image in enumerate(images):
        left = MARGIN + number % columns * (cell[0] + MARGIN)
        top = MARGIN + number // columns * (cell[1] + line + MARGIN)
        _paste(sheet, image, scale, cell, (left, top))
        if captions is not None:
            _write(sheet, captions[number], (left, top + cell[1] + 1), cell[0])
    return sheet


def _mode(images: Sequence[Image.Image]) -> str:
    modes = {image.mode for image in images}
    if modes == {"I;16"}:
        return "I;16"
    return "L" if modes <= {"1", "L", "I;16"} else "RGB"


def _sheet_size(count: int, columns: int, cell: tuple[int, int], line: int) -> tuple[int, int]:
    rows = math.ceil(count / columns)
    return MARGIN + columns * (cell[0] + MARGIN), MARGIN + rows * (cell[1] + line + MARGIN)


def _paste(
    sheet: Image.Image, image: Image.Image, scale: int, cell: tuple[int, int], at: tuple[int, int]
) -> None:
    if image.mode == "I;16" != sheet.mode:  # Pillow versions convert 16 to 8 bits differently
        image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
    large = image if image.mode == sheet.mode else image.convert(sheet.mode)
    if scale > 1:
        large = large.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    offset = (at[0] + (cell[0] - large.width) // 2, at[1] + (cell[1] - large.height) // 2)
    sheet.paste(large, offset)


def _printable(text: str) -> str:
    """The text in ASCII, which is all that Pillow's font has: accents are dropped, other letters become "?"."""
    decomposed = unicodedata.normalize("NFKD", text)
    return "".join(c if c.isascii() else "?" for c in decomposed if not unicodedata.combining(c))


def _write(sheet: Image.Image, caption: str, at: tuple[int, int], width: int) -> None:
    font = ImageFont.load_default(FONT_SIZE)
    text = _printable(" ".join(caption.split()))
    if font.getlength(text) > width:
        while text and font.getlength(text + "…") > width:
            text = text[:-1]
        text += "…"
    ImageDraw.Draw(sheet).text(at, text, fill=0 if sheet.mode == "I;16" else "black", font=font)
