"""HTML pages of one file: templates in `page-templates/`, which share a style, and images inside the page."""

from __future__ import annotations

import base64
import io
from functools import cache
from typing import TYPE_CHECKING, Any

from PIL import Image

if TYPE_CHECKING:
    from jinja2 import Environment


FOLDER = "page-templates"


def render(template: str, **values: Any) -> str:
    """Return a page. Values are escaped, except those that `safe` marks."""
    return _environment().get_template(template).render(**values)


def safe(html: str) -> Any:
    """Mark a text that is HTML already."""
    from markupsafe import Markup

    return Markup(html)


def data_uri(image: Image.Image, quality: int | None = None) -> str:
    """Return an image as an address that holds it: a PNG, or with `quality` a JPEG."""
    buffer = io.BytesIO()
    if quality is None:
        image.save(buffer, "PNG")
    else:
        image.save(buffer, "JPEG", quality=quality, optimize=True)
    kind = "png" if quality is None else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader(__package__, FOLDER)
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
