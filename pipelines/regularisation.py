"""What keeps a prior of the preset `auto` from learning its images by heart, by how often it sees them."""

from __future__ import annotations

from math import ceil
from typing import Any

from ..data.probe import Headers
from ..data.sizes import typical_side
from ..options import Size, sides_of
from .settings import Settings

FEW_PASSES = 10
"""Most passes over the images without dropout and code noise."""
LEARNED = 8.0
"""Passes over the images, times parameters per token of them, for each crop of an image. The held-out loss of a prior
with one crop stands still after 12."""
MANY_PASSES = 30
"""Most passes over the images with shifted crops where others can be had."""
CROPS, CROP_SCALE = 8, 0.8
"""Most crops of each image, and the size of the smallest random one relative to the largest."""


def regularisation(settings: Settings, passes: float, parameters: float, crop: str) -> dict[str, Any]:
    """Return the settings that follow from the passes over the images. See docs/quality.md for what they gain.

    Few passes need no dropout. More need several crops of each image, unless the user or the tokenizer's run chose
    how to crop.

    Args:
        parameters: of the prior, per token of the images.
        crop: the kind of crops that the images allow, as `possible_crops` returns it.
    """
    changes: dict[str, Any] = {}
    if passes <= FEW_PASSES:
        changes = {"dropout": 0.0, "token_dropout": 0.0, "code_noise": 0.0}
    changes = {key: value for key, value in changes.items() if key not in settings.explicit}
    given = (
        settings.explicit & {"crop", "crops_per_image"} or settings.values.get("crop", "centre") != "centre"
    )
    return changes if given else changes | _crops(passes, parameters, crop)


def _crops(passes: float, parameters: float, crop: str) -> dict[str, Any]:
    count = min(CROPS, ceil(passes * parameters / LEARNED))
    if not crop or count == 1:
        return {}
    if crop == "random" and passes > MANY_PASSES:
        return {"crop": "random", "crop_scale": CROP_SCALE, "crops_per_image": CROPS}
    return {"crop": "shift", "crops_per_image": count}


def possible_crops(headers: Headers, size: Size) -> str:
    """Return how images can be cropped to a size: "random", "shift", or "" for streams, which pass by only once.

    Random crops are for images so large that the smallest crop of most of them has as many pixels as the model's size.
    """
    if headers.source.stream is not None:
        return ""
    return "random" if CROP_SCALE * typical_side(headers, size) >= min(sides_of(size)) else "shift"
