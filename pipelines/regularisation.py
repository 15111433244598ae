"""What keeps a prior of the preset `auto` from learning its images by heart, by how often it sees them."""

from __future__ import annotations

from typing import Any

from ..data.probe import Headers
from ..data.sizes import typical_side
from ..options import Size, sides_of
from .settings import Settings

FEW_PASSES = 10
"""Most passes over the images without dropout and code noise."""
MANY_PASSES = 30
"""Most passes over the images without several crops of each."""
CROPS, CROP_SCALE = 8, 0.8
"""Crops of each image, and the size of the smallest relative to the largest."""


def regularisation(settings: Settings, passes: float, crops: bool) -> dict[str, Any]:
    """Return the settings that follow from the passes over the images. See docs/quality.md for what they gain.

    Few passes need no dropout. Many need several crops of each image, unless the user or the tokenizer's run chose
    how to crop.

    Args:
        crops: whether the images are large enough for them.
    """
    if passes <= FEW_PASSES:
        rates = {"dropout": 0.0, "token_dropout": 0.0, "code_noise": 0.0}
        return {key: value for key, value in rates.items() if key not in settings.explicit}
    chosen = (
        settings.explicit & {"crop", "crops_per_image"} or settings.values.get("crop", "centre") != "centre"
    )
    if passes <= MANY_PASSES or not crops or chosen:
        return {}
    return {"crop": "random", "crop_scale": CROP_SCALE, "crops_per_image": CROPS}


def enough_for_crops(headers: Headers, size: Size) -> bool:
    """Return whether the smallest crop of most images has as many pixels as the model's size: none is enlarged.

    Streams pass by only once, so they have no crops.
    """
    return headers.source.stream is None and CROP_SCALE * typical_side(headers, size) >= min(sides_of(size))
