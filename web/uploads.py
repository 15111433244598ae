"""Images that a visitor uploads or draws on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..data.decode import BadImage, load_image, open_image
from ..data.image import is_deep, plain, upright
from ..errors import DataError
from ..pipelines.prepare import Prepared, prepare
from ..tokenizer.config import TokenizerConfig

MOST_PIXELS = 50_000_000
"""Largest upload in pixels. A file of a few kilobytes can hold gigabytes of pixels."""
EDITOR_SIDE = 448
"""Pixels of the longer side of an image that is drawn on, at least."""
KEPT_MODES = ("L", "RGB", "RGBA", "LA", "P", "I;16")
"""Modes that a PNG keeps as they are."""


def read_upload(payload: Any, what: str = "an image") -> Image.Image:
    """Return an uploaded image, upright and in a mode that a PNG keeps, so that a download repeats the result.

    Args:
        payload: what gradio passes of an image component, before its own reading: {"path", "orig_name", ...}.

    Raises:
        DataError: nothing was uploaded, or it cannot be read.
    """
    path = payload.get("path") if isinstance(payload, Mapping) else None
    if not path:
        raise DataError(f"Choose {what} first.")
    return read_file(Path(path), payload.get("orig_name") or what)


def read_file(path: Path, name: str) -> Image.Image:
    """Return an image file; `name` stands for it in errors. Raises DataError."""
    try:
        width, height = open_image(path, name).size
        if width * height > MOST_PIXELS:
            raise BadImage(name, f"{width}x{height} px are more than {MOST_PIXELS:,}; reduce it")
        image = upright(load_image(path, name))
        if image.mode not in KEPT_MODES:
            image = _eight_or_sixteen(plain(image, 3 if not is_deep(image) else 1, "white"))
    except BadImage as error:
        raise BadImage(name, error.why) from error
    return image


def at_model_size(image: Image.Image, config: TokenizerConfig) -> Prepared:
    """Return an image cropped in the centre and resized to the model's size. Raises DataError."""
    return prepare(image, config, "white", "the image")


def to_draw_on(image: Image.Image) -> Image.Image:
    """Return an image enlarged by a whole factor, without smoothing, so that one can draw on it."""
    factor = max(1, round(EDITOR_SIDE / max(image.size)))
    shown = image if image.mode in ("L", "RGB") else _eight(image)
    size = (image.width * factor, image.height * factor)
    return shown.convert("RGB").resize(size, Image.Resampling.NEAREST)


def drawn(value: Any) -> tuple[Image.Image, np.ndarray]:
    """Return the background of an image editor, RGB, and what was drawn over it, (Y, X) bool.

    Args:
        value: of an image editor: a dictionary with the images `background` and `layers`.

    Raises:
        DataError: there is no image, or nothing was drawn.
    """
    background = (value or {}).get("background")
    if background is None or is_blank(background):
        raise DataError("Choose an image first.")
    marked = np.zeros((background.height, background.width), bool)
    for layer in value.get("layers") or ():
        own = layer if layer.size == background.size else layer.resize(background.size)
        marked |= np.asarray(own.convert("RGBA"))[..., 3] > 0
    if not marked.any():
        raise DataError("Draw over the part that is to be redrawn first.")
    return background.convert("RGB"), marked


def is_blank(background: Image.Image) -> bool:
    """Return whether the background of an image editor is transparent everywhere: no image was chosen."""
    return background.mode == "RGBA" and not np.asarray(background)[..., 3].any()


def reduced(
    background: Image.Image, marked: np.ndarray, config: TokenizerConfig
) -> tuple[Image.Image, np.ndarray]:
    """Return the background and the mask as they were before `to_draw_on`; others unchanged.

    A pixel is marked where any part of it was drawn over.
    """
    (H, W), (width, height) = config.size, background.size
    factor = width // W
    if not factor or (height, width) != (factor * H, factor * W):
        return background, marked
    small = background.resize((W, H), Image.Resampling.BOX)
    return small, np.asarray(marked.reshape(H, factor, W, factor).any((1, 3)))


def _eight(image: Image.Image) -> Image.Image:
    """Return an image of 16 bits with 8 bits."""
    if image.mode != "I;16":
        return image.convert("RGB")
    return Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))


def _eight_or_sixteen(image: Image.Image) -> Image.Image:
    """Return an image of mode F in [0, 1] as I;16, others unchanged."""
    if image.mode != "F":
        return image
    return Image.fromarray((np.asarray(image) * 65535).round().astype(np.uint16))
