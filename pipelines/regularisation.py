"""What keeps a prior of the preset `auto` from learning its images by heart, by how often it sees them."""

from __future__ import annotations

from math import ceil
from typing import Any

from ..data.probe import Headers
from ..data.sizes import typical_side
from ..options import Size, sides_of
from .settings import Settings

FEW_PASSES = 10
"""Most passes over the images without dropout and code noise where shifted crops do not suffice."""
LEARNED = 8.0
"""Passes over the images, times parameters per token of them, for each crop of an image. The held-out loss of a prior
with one crop stands still after 12."""
MANY_PASSES = 30
"""Most passes over the images without random crops where shifted ones do not suffice."""
UNREGULARISED: dict[str, Any] = {"dropout": 0.0, "token_dropout": 0.0, "code_noise": 0.0}
"""Settings of a prior that starts from the codebook and needs no dropout."""
CROPS, CROP_SCALE = 8, 0.8
"""Most crops of each image, and the size of the smallest random one relative to the largest."""


def regularisation(settings: Settings, passes: float, parameters: float, crop: str) -> dict[str, Any]:
    """Return the settings that follow from the passes over the images. See docs/quality.md for what they gain.

    Few passes need nothing. More need several shifted crops of each image, and if these are too few, dropout and code
    noise, at last random crops too. A user or a tokenizer's run that chose how to crop keeps the choice.

    Args:
        parameters: of the prior, per token of the images.
        crop: the kind of crops that the images allow, as `possible_crops` returns it.
    """
    cropped = (
        settings.explicit & {"crop", "crops_per_image"} or settings.values.get("crop", "centre") != "centre"
    )
    changes = _changes(passes, ceil(passes * parameters / LEARNED), "" if cropped else crop)
    return {key: value for key, value in changes.items() if key not in settings.explicit}


def _changes(passes: float, crops: int, crop: str) -> dict[str, Any]:
    """The same for the number of shifted crops that is needed, and the kind of crops that is possible."""
    few, shifted = passes <= FEW_PASSES, {"crop": "shift", "crops_per_image": min(CROPS, crops)}
    if few or (crop and crops <= CROPS):
        return UNREGULARISED | (shifted if crop and crops > 1 else {})
    if crop == "random" and passes > MANY_PASSES:
        return {"crop": "random", "crop_scale": CROP_SCALE, "crops_per_image": CROPS}
    return {}


def possible_crops(headers: Headers, size: Size) -> str:
    """Return how images can be cropped to a size: "random", "shift", or "" for streams, which pass by only once.

    Random crops are for images so large that the smallest crop of most of them has as many pixels as the model's size.
    """
    if headers.source.stream is not None:
        return ""
    return "random" if CROP_SCALE * typical_side(headers, size) >= min(sides_of(size)) else "shift"
