"""Images as HTML. They are part of the page itself (data URIs), so that no preview becomes a file."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

from PIL import Image

COLUMNS = ((1, 1), (2, 2), (3, 3), (4, 2), (12, 4), (24, 6), (64, 8))
"""Most images -> images in a row."""
WIDEST = 340
"""Pixels of the width of an image on the page, at most."""
TAKE = "this.href=this.querySelector('img').src"
"""The link downloads the image that it shows, so that the page holds each image once."""
SHARP = 128
"""Images below this side are enlarged without smoothing."""


def data_uri(image: Image.Image) -> str:
    """Return an image as a PNG inside a URI."""
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def rows_of(cells: str, count: int) -> str:
    """Return several cells in rows that are as wide as the page allows."""
    columns = next((own for most, own in COLUMNS if count <= most), COLUMNS[-1][1])
    style = f"grid-template-columns:repeat({columns},minmax(0,1fr));max-width:{columns * WIDEST}px"
    return f'<div class="pictures" style="{style}">{cells}</div>'


def figures(
    images: Sequence[Image.Image],
    captions: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
) -> str:
    """Return images in rows, each with its caption.

    Args:
        captions: one line below each image; plain text.
        names: file names; an image with a name is a link that downloads it.
    """
    captions = captions or [""] * len(images)
    cells = (
        _figure(image, caption, names[i] if names else None)
        for i, (image, caption) in enumerate(zip(images, captions, strict=True))
    )
    return rows_of("".join(cells), len(images))


def placeholder(count: int) -> str:
    """Return empty frames for results that are not there yet."""
    return rows_of('<div class="frame"></div>' * count, count)


def progress_bar(done: int, total: int, text: str) -> str:
    """Return a bar with a line of text."""
    return f'<div class="bar"><progress value="{done}" max="{max(1, total)}"></progress> {html.escape(text)}</div>'


def line(text: str, kind: str = "note") -> str:
    """Return a line of plain text."""
    return f'<p class="{kind}">{html.escape(text)}</p>'


def _figure(image: Image.Image, caption: str, name: str | None) -> str:
    sharp = ' class="sharp"' if max(image.size) < SHARP else ""
    text = html.escape(caption, quote=True)
    picture = f'<img{sharp} src="{data_uri(image)}" alt="{text or "image"}">'
    if name:
        name = html.escape(name, quote=True)
        picture = f'<a href="#" onclick="{TAKE}" download="{name}" title="Download {name}">{picture}</a>'
    label = f'<figcaption title="{text}">{text}</figcaption>' if caption else ""
    return f"<figure>{picture}{label}</figure>"
