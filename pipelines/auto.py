"""The preset `auto`: the network and the training size by the images' size, their number, the device and the time.

The speed of each candidate is measured on this machine. The largest one counts that sees enough images in the time.
What "enough" is comes from the runs of benchmarks/RESULTS.md for the smaller ones, and is a guess for the larger ones.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from accelerate import Accelerator

from ..data.config import DIGITS
from ..data.probe import Headers
from ..data.sizes import typical_side
from ..errors import ConfigError, ImgtfError
from ..options import sides_of, size_text, to_size
from ..prior.config import PriorConfig
from ..prior.recipe import CacheRecipe
from ..tokenizer.config import TokenizerConfig
from ..tokenizer.recipe import TokenizerRecipe
from ..training.config import TrainingConfig
from .auto_losses import DISCRIMINATOR_STEPS, available_losses
from .candidates import CANDIDATES
from .fitted import Fit, fitted
from .initial import tokenizer_config
from .least_memory import check_memory
from .regularisation import regularisation
from .settings import AUTO, Settings, load_presets, option_names, with_preset
from .step_speed import prior_speed, tokenizer_speed

logger = logging.getLogger("imgtf")
C = TypeVar("C", TokenizerConfig, PriorConfig)

MINUTES = 10.0
"""Time of a stage without --minutes and --steps."""
PATIENCE = 3
"""How many times longer a stage may take without --minutes, for a network of the images' size on a slow machine."""
TRAINED = 0.7
"""Fraction of the time for forward and backward passes, which alone are measured; the rest is for reading images, the
optimizer, evaluations and the end of the run."""
PASSES = {"tokenizer": 300, "prior": 60}
"""Passes over the images after which more time is of little use."""
LEAST_SEEN = 20_000
"""Images of a run, however few different ones there are."""
PARAMETERS_PER_TOKEN = 12
"""Most parameters of a prior per token of the training images: larger ones learn the images by heart."""
NETWORK = {
    "tokenizer": set(option_names(TokenizerConfig, "network"))
    - {"image_size", "channels", "bit_depth", "gradient_checkpointing"},
    "prior": {"width", "depth", "heads", "kv_heads", "intermediate_size"},
}
"""Options that give the network: with one of them, the others are those of the smallest preset."""
FEW_STEPS, FEW_IMAGES = 650, 16
"""A tokenizer's run of fewer steps has so many images per step, and more steps (docs/quality.md)."""


@dataclass(frozen=True)
class _Stage:
    """What the choice needs to know of a stage."""

    name: str
    images: int
    """Different ones for training."""
    speed: Callable[[Settings], float]
    """Images per second of the network of settings; ConfigError where the memory is certainly too small for it."""
    suits: Callable[[Settings], bool]
    """Whether the network of settings suits the images."""


def fit_tokenizer(
    settings: Settings,
    headers: Headers,
    config: Callable[[Settings], TokenizerConfig],
    accelerator: Accelerator,
) -> Fit:
    """Return the settings of a tokenizer's run; with neither `auto` nor --minutes they are the given ones.

    Args:
        headers: of the training images.
        config: returns the configuration of the tokenizer of settings.
    """

    def speed(one: Settings) -> float:
        return tokenizer_speed(_that_fits(config(one), one), accelerator)

    images = headers.training_images()
    stage = _Stage("tokenizer", images, speed, lambda one: suits_images(one, headers))
    if settings.preset != AUTO or is_plain("tokenizer", settings):
        fit = _as_given(settings, stage)
    else:
        fit = _with_losses(settings, stage, config, accelerator)
    if settings.preset != AUTO:
        return fit
    what = f" at {size_text(config(fit.settings).image_size)} px"
    why = f"{images:,} images of typically {typical_side(headers)} px"
    _say(fit, settings, stage, what, why, "--preset or --image-size", accelerator)
    return fit


def fit_prior(
    settings: Settings,
    images: int,
    tokens: int,
    config: Callable[[Settings], PriorConfig],
    accelerator: Accelerator,
    crop: str = "",
) -> Fit:
    """Return the settings of a prior's run, as `fit_tokenizer`.

    Args:
        images: different ones for training, however many captions each has.
        tokens: of an image.
        crop: the kind of crops that the images allow (`possible_crops`).
    """

    def parameters(chosen: Settings) -> float:  # per token
        width, depth = (int(chosen.values[name]) for name in ("width", "depth"))
        return 12 * depth * width**2 / (images * tokens)

    def speed(one: Settings) -> float:
        return prior_speed(_that_fits(config(one), one), accelerator)

    stage = _Stage("prior", images, speed, lambda one: parameters(one) <= PARAMETERS_PER_TOKEN)
    if settings.preset != AUTO or is_plain("prior", settings):
        fit = _as_given(settings, stage)
    else:
        found, rate, least = _largest(settings, stage)
        fit = _timed(found, rate, stage, least)
        passes = fit.steps * fit.settings.part(TrainingConfig).batch_size / images
        changes = regularisation(fit.settings, passes, parameters(fit.settings), crop)
        fit = replace(fit, settings=fit.settings.changed(changes))
    if settings.preset == AUTO:
        crops_per_image = fit.settings.part(CacheRecipe).crops_per_image
        kind = "shifted" if fit.settings.values.get("crop") == "shift" else "random"
        what = f", {crops_per_image} {kind} crops of each image" if crops_per_image > 1 else ""
        _say(fit, settings, stage, what, f"{images:,} images of {tokens} tokens", "--preset", accelerator)
    return fit


def suits_images(settings: Settings, headers: Headers) -> bool:
    """Return whether the images reach the size of a preset, or the size that the user gives fits its network."""
    preset = load_presets("tokenizer")[settings.preset]
    given = settings.values["image_size"] if "image_size" in settings.explicit else typical_side(headers)
    try:
        tokenizer_config(settings, headers)
    except ImgtfError:  # the size is no multiple of the factor
        return False
    smallest = CANDIDATES["tokenizer"][0].preset  # which is reduced to smaller images
    return settings.preset == smallest or min(sides_of(to_size(given))) >= int(preset["image_size"])


def is_plain(stage: str, settings: Settings) -> bool:
    """Return whether `auto` is the smallest preset as it is: for the digits, fine-tuning, and a given network."""
    given = settings.explicit & (NETWORK[stage] | {"init_from"})
    return bool(given) or settings.values.get("data", DIGITS) == DIGITS


def _as_given(settings: Settings, stage: _Stage) -> Fit:
    """The given preset, or the smallest one, with the schedules for --minutes."""
    if settings.preset == AUTO:
        settings = with_preset(settings, stage.name, CANDIDATES[stage.name][0].preset)
    if settings.values.get("minutes") is None:
        return Fit(settings, settings.part(TrainingConfig).steps)
    return _timed(settings, stage.speed(settings), stage)


def _with_losses(
    settings: Settings, stage: _Stage, config: Callable[[Settings], TokenizerConfig], accelerator: Accelerator
) -> Fit:
    """The largest tokenizer with the losses that it can have, which count for its steps."""
    found, rate, least = _largest(settings, stage)
    fit = _timed(found, rate, stage, least)
    for _ in range(2):  # the losses of a long run can take so much time that it is a short one
        long = fit.steps >= DISCRIMINATOR_STEPS
        chosen = found.changed(available_losses(found, long, accelerator))
        # The speed is 0 where a GPU has memory for the network alone.
        own = tokenizer_speed(config(chosen), accelerator, chosen.part(TokenizerRecipe)) or rate
        fit = _timed(_for_few_steps(chosen, own), own, stage, least)
        if not long or fit.steps >= DISCRIMINATOR_STEPS:
            break
    return fit


def _largest(settings: Settings, stage: _Stage) -> tuple[Settings, float, int]:
    """The largest candidate that sees enough images in the time, its images per second, and what is enough."""
    seconds = 60 * TRAINED * (settings.values.get("minutes") or PATIENCE * MINUTES)
    most = max(LEAST_SEEN, PASSES[stage.name] * stage.images)
    first, *others = CANDIDATES[stage.name]
    found = with_preset(settings, stage.name, first.preset, first.changes)
    rate, least, slow = stage.speed(found), first.least, set[str]()
    for one in others:
        chosen = with_preset(settings, stage.name, one.preset, one.changes)
        # A size that the user gives needs a network for this size, however few images it will see.
        given = "image_size" in settings.explicit and one.preset != found.preset
        # A preset as it is takes longer than every candidate before it.
        too_slow = one.preset in slow or (bool(slow) and not one.changes)
        if too_slow or not (given or one.least <= most) or not stage.suits(chosen):
            continue
        try:
            own = stage.speed(chosen)
        except ConfigError as error:
            logger.info("auto: not the larger preset %s: %s", one.preset, error)
            continue
        training = chosen.part(TrainingConfig)
        counted = "steps" in settings.explicit  # the steps say how many images it will see
        sees = training.steps * training.batch_size if counted else own * seconds
        if given or sees >= one.least:
            found, rate, least = chosen, own, 0 if given else one.least
        else:
            slow.add(one.preset)
    return found, rate, least


def _that_fits(config: C, settings: Settings) -> C:
    """Return the configuration of a network. Raises as `check_memory`."""
    check_memory(config, settings.part(TrainingConfig), settings.find_batch)
    return config


def _for_few_steps(settings: Settings, rate: float) -> Settings:
    """The settings of a tokenizer with fewer images per step where one with Muon has time for few steps."""
    training, given = settings.part(TrainingConfig), settings.explicit & {"batch_size", "steps"}
    seconds = 60 * TRAINED * (settings.values.get("minutes") or MINUTES)
    if given or training.optimizer != "muon" or seconds * rate / training.batch_size >= FEW_STEPS:
        return settings
    return settings.changed({"batch_size": min(FEW_IMAGES, training.batch_size)})


def _timed(settings: Settings, rate: float, stage: _Stage, least: int = 0) -> Fit:
    """The settings with a number of steps by the time where the user gives none, and schedules that follow it.

    Args:
        rate: images per second; 0 where it could not be measured, which leaves the steps of the preset.
        least: images of a run without --minutes.
    """
    if not rate:
        return Fit(settings, settings.part(TrainingConfig).steps)
    minutes, batch = settings.values.get("minutes"), settings.part(TrainingConfig).batch_size
    if "batch_size" not in settings.explicit:
        batch = min(batch, 2 ** (max(1, stage.images).bit_length() - 1))
    per_second = rate / batch
    steps = max(1, int(60 * TRAINED * (minutes or MINUTES) * per_second))
    if "steps" in settings.explicit:
        steps = settings.part(TrainingConfig).steps
    elif minutes is None:
        seen = max(LEAST_SEEN, PASSES[stage.name] * stage.images)
        steps = _rounded(min(max(steps, -(-least // batch)), seen // batch))
    changes = fitted(settings, stage.name, steps, max(1, int(600 * per_second))) | {"batch_size": batch}
    if minutes is None:
        changes["steps"] = steps
    return Fit(settings.changed(changes), steps, steps / per_second / 60 / TRAINED)


def _rounded(steps: int) -> int:
    """A number of steps with at most two digits before its zeros."""
    unit = 10 ** max(0, len(str(steps)) - 2)
    return max(1, steps // unit * unit)


def _say(
    fit: Fit, given: Settings, stage: _Stage, what: str, why: str, other: str, accelerator: Accelerator
) -> None:
    """One line: what was picked, and why."""
    preset, width = fit.settings.preset, fit.settings.values.get("width")
    if width != load_presets(stage.name)[preset].get("width"):
        what = f" with width {width}{what}"
    steps = f"{fit.steps:,} steps of {fit.settings.part(TrainingConfig).batch_size} images"
    if given.values.get("minutes"):
        steps = f"about {steps} in {_minutes(given.values['minutes'])}"
    elif fit.minutes is not None:
        steps = f"{steps} in about {_minutes(max(1, round(fit.minutes)))}"
    if given.values.get("data", DIGITS) == DIGITS:
        why = "the built-in digits"
    elif fit.minutes is not None:
        why = f"{why}, {_machine(accelerator)}"
    logger.info("auto: preset %s%s, %s: %s; others with %s", preset, what, steps, why, other)


def _minutes(minutes: float) -> str:
    return f"{minutes:g} minute{'s' if minutes != 1 else ''}"


def _machine(accelerator: Accelerator) -> str:
    if accelerator.device.type != "cpu":
        return f"{accelerator.num_processes} x {accelerator.device.type}"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return f"{cores} CPU core{'s' if cores > 1 else ''}"
