"""The losses that the preset `auto` takes for a tokenizer: what the time and this machine allow."""

from __future__ import annotations

import logging
from typing import Any

from accelerate import Accelerator

from ..errors import ImgtfError
from ..runtime.optional import import_with_torchvision
from ..tokenizer.perceptual import backbone_file, local_backbone
from ..tokenizer.recipe import TokenizerRecipe
from .settings import Settings
from .step_speed import agreed

logger = logging.getLogger("imgtf")

DISCRIMINATOR_STEPS = 5000
"""Fewest steps with a discriminator, whose weight rises slowly."""
BACKBONE = "squeeze"
"""Network of LPIPS that is downloaded where none is on this machine: 5 MB, and fast."""


def available_losses(settings: Settings, long: bool, accelerator: Accelerator) -> dict[str, Any]:
    """Return the settings that change: a discriminator only in `long` runs, LPIPS only if its network can be had.

    Raises:
        CheckpointError: LPIPS is asked for and cannot be had.
    """
    recipe, changes = settings.part(TokenizerRecipe), dict[str, Any]()
    explicit = settings.explicit
    if not long:
        changes["discriminator_weight"] = 0.0
    if recipe.lpips_weight and not explicit & {"lpips_backbone", "lpips_file"}:
        names = ("vgg", "alex", BACKBONE) if long else (BACKBONE, "alex", "vgg")
        with accelerator.main_process_first():
            own = _backbone(names, needed="lpips_weight" in explicit)
        backbone = agreed(own, accelerator)  # machines may have different caches
        changes |= {"lpips_backbone": backbone} if backbone else {"lpips_weight": 0.0, "l2_weight": 1.0}
    return {key: value for key, value in changes.items() if key not in explicit}


def _backbone(names: tuple[str, ...], *, needed: bool) -> str | None:
    """Return the network of LPIPS: the first of `names` that is on this machine, or `BACKBONE`, which is downloaded.

    If it cannot be had: None, or the error where it is `needed`.
    """
    found = local_backbone(names)
    try:
        import_with_torchvision("lpips")
        if found is None:
            logger.info(
                "auto: LPIPS, the loss that makes pictures sharp, needs a SqueezeNet: downloading 5 MB, once"
            )
            backbone_file(BACKBONE)
    except ImgtfError as error:
        if needed:
            raise
        logger.info("auto: without LPIPS, so pictures will be less sharp: %s", error)
        return None
    return found or BACKBONE
