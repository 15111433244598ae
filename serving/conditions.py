"""What a request asks for, checked against the model: conditions, size, settings, number, seed."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..errors import ConfigError
from ..options import sides_of
from ..pipelines.condition_loader import given_values
from ..pipelines.models import Models
from ..pipelines.prepare import fixed_values
from ..pipelines.request import Request, sampling_settings
from ..prior.config import PriorConfig, SamplingConfig
from .config import ServingConfig
from .errors import wrong
from .fields import RequestFields

RANDOM_SEEDS = 2**32
"""Seeds that the server chooses are below: every JSON reader holds them exactly."""


@dataclass(frozen=True)
class Asked:
    """A checked request."""

    request: Request
    settings: SamplingConfig
    size: tuple[int, int]
    """Height and width in pixels."""
    given: Mapping[str, Any]
    """Label and text, as `Pipeline.sample` takes them."""
    notes: tuple[str, ...]
    """What the client should know."""

    def with_note(self, note: str) -> Asked:
        """The same with one more note."""
        return replace(self, notes=(*self.notes, note))


def check_fields(models: Models, config: ServingConfig, fields: RequestFields, *, edit: bool) -> Asked:
    """Return what a request asks for. Raises ApiError, which names the wrong field."""
    prior, n = models.prior.config, 1 if fields.n is None else fields.n
    if not 1 <= n <= config.max_n:
        raise wrong(
            "n", f"n must be from 1 to {config.max_n}, got {n}: send several requests for more images"
        )
    given = condition_of(prior, fields)
    values = _values(models, fields, given, edit)
    seed = secrets.randbelow(RANDOM_SEEDS) if fields.seed is None else fields.seed
    try:
        request = Request.checked(n, values, seed, 0, None, (0, 1))
    except ConfigError as error:
        raise wrong("seed", error) from error
    size = size_of(models, config, fields.size)
    return Asked(request, settings_of(prior, fields.sampling), size, given, tuple(_notes(prior, given)))


def condition_of(prior: PriorConfig, fields: RequestFields) -> dict[str, Any]:
    """Return label and text, as `Pipeline.sample` takes them. A prompt names a class where the model has no captions.

    Raises:
        ApiError: a prompt that the model has no use for.
    """
    prompt = fields.prompt or None
    if {"text", "features"} & set(prior.condition_kinds):
        return {"label": fields.label, "text": prompt}
    if prompt is None:
        return {"label": fields.label}
    if prior.class_names and fields.label is None:
        return {"label": prompt}
    text = "this model has neither captions nor classes: leave out prompt, or send an empty one"
    if prior.class_names:
        text = "this model has classes only, and prompt names one, as label does: leave out one of them"
    raise wrong("prompt", text, "unsupported_prompt")


def _values(
    models: Models, fields: RequestFields, given: Mapping[str, Any], edit: bool
) -> dict[str, list[Any]]:
    """Return the values of each condition, one per image in turn."""
    try:
        # Without a label, all classes take turns; an edited image has no class that is known.
        return fixed_values(models.loaders, **given) if edit else given_values(models.loaders, given)
    except ConfigError as error:
        raise wrong("prompt" if fields.label is None else "label", error) from error


def settings_of(prior: PriorConfig, given: Mapping[str, Any]) -> SamplingConfig:
    """Return the model's sampling settings with those of a request. Raises ApiError."""
    for name, value in given.items():
        try:
            sampling_settings(prior, **{name: value})
        except ConfigError as error:
            raise wrong(name, str(error).removeprefix("sample: ")) from error
    return sampling_settings(prior, **given)


def size_of(models: Models, config: ServingConfig, text: str | None) -> tuple[int, int]:
    """Return height and width of `64x48` (width x height), or the model's own. Raises ApiError."""
    height, width = own = models.tokenizer.config.size
    if text in (None, "auto"):
        return own
    found = re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})", str(text))
    if found is None:
        raise wrong("size", f"size {text!r:.40} is not WIDTHxHEIGHT in pixels, such as {width}x{height}")
    asked, limit = (int(found[2]), int(found[1])), largest_side(models, config)
    if max(asked) > limit:
        raise wrong(
            "size",
            f"size {text} is too large: this server samples up to {limit} px a side, and the model's own size is "
            f"{width}x{height}",
        )
    return asked


def largest_side(models: Models, config: ServingConfig) -> int:
    """Return the longest side that may be asked for; that of the model is always possible."""
    own = max(sides_of(models.tokenizer.config.image_size))
    return 2 * own if config.max_side is None else max(own, config.max_side)


def _notes(prior: PriorConfig, given: Mapping[str, Any]) -> list[str]:
    limit = getattr(prior.condition("text"), "max_bytes", None)
    text = given.get("text")
    if limit is None or text is None or len(text.encode()) <= limit:
        return []
    return [f"the prompt is cut to {limit} bytes, the most that this model reads"]
