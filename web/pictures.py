"""Images as HTML. They are part of the page itself (data URIs), so that no preview becomes a file."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

from PIL import Image

CELLS = ((1, 336), (2, 300), (3, 220), (12, 162), (24, 106), (64, 78))
"""Most images -> pixels of the longer side of each on the page."""
TAKE = "this.href=this.querySelector('img').src"
"""The link downloads the image that it shows, so that the page holds each image once."""
SHARP = 128
"""Images below this side are enlarged without smoothing."""


def data_uri(image: Image.Image) -> str:
    """Return an image as a PNG inside a URI."""
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def cell_size(count: int) -> int:
    """Return the longer side of each of several images on the page, in pixels."""
    return next((side for most, side in CELLS if count <= most), CELLS[-1][1])


def figures(
    images: Sequence[Image.Image],
    captions: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    side: int | None = None,
) -> str:
    """Return images in rows, each with its caption.

    Args:
        captions: one line below each image; plain text.
        names: file names; an image with a name is a link that downloads it.
        side: pixels of the longer side on the page; None: by their number.
    """
    side = side or cell_size(len(images))
    captions = captions or [""] * len(images)
    cells = (
        _figure(image, caption, names[i] if names else None, side)
        for i, (image, caption) in enumerate(zip(images, captions, strict=True))
    )
    return f'<div class="pictures">{"".join(cells)}</div>'


def placeholder(text: str, count: int = 1) -> str:
    """Return empty frames with a line of text below, for results that are not there yet."""
    frame = f'<div class="frame" style="width:{cell_size(count)}px;height:{cell_size(count)}px"></div>'
    return f'<div class="pictures">{frame * count}</div><p class="hint">{html.escape(text)}</p>'


def progress_bar(done: int, total: int, text: str) -> str:
    """Return a bar with a line of text."""
    return f'<div class="bar"><progress value="{done}" max="{max(1, total)}"></progress> {html.escape(text)}</div>'


def line(text: str, kind: str = "note") -> str:
    """Return a line of plain text."""
    return f'<p class="{kind}">{html.escape(text)}</p>'


def _figure(image: Image.Image, caption: str, name: str | None, side: int) -> str:
    scale = side / max(image.size)
    width, height = (max(1, round(scale * own)) for own in image.size)
    sharp = ' class="sharp"' if max(image.size) < SHARP else ""
    text = html.escape(caption, quote=True)
    picture = (
        f'<img{sharp} src="{data_uri(image)}" width="{width}" height="{height}" alt="{text or "image"}">'
    )
    if name:
        name = html.escape(name, quote=True)
        picture = f'<a href="#" onclick="{TAKE}" download="{name}" title="Download {name}">{picture}</a>'
    label = f'<figcaption style="max-width:{width}px" title="{text}">{text}</figcaption>' if caption else ""
    return f"<figure>{picture}{label}</figure>"
