"""What a visitor asks for in a form, checked, as arguments of `Pipeline.stream` and as options of `imgtf`."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ..errors import ConfigError
from ..options import check, whole_number
from ..pipelines.request import MAX_SEED, sampling_settings
from ..prior.config import ORDERS, PriorConfig, SamplingConfig
from ..prior.decoding.schedules import step_count

MOST_IMAGES = 64
"""Most images of one request."""
WHOLE = ("top_k", "sampling_steps")
"""Settings that are whole numbers; the page sends all numbers as floats or ints."""


@dataclass(frozen=True)
class Asked:
    """The number, the conditions and the settings of images that are to be sampled."""

    n: int
    seed: int
    conditions: Mapping[str, Any]
    """By name: several labels, several texts."""
    given: Mapping[str, Any]
    """Sampling settings that are not the model's own."""
    settings: SamplingConfig
    """All of them."""

    def options(self) -> dict[str, Any]:
        """Return the options of `imgtf sample` and `imgtf edit` that ask for the same."""
        conditions = {name: own for name, own in self.conditions.items() if name in ("label", "text")}
        return {"n": self.n, "seed": self.seed, **conditions, **self.given}

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `Pipeline.stream` without n."""
        return {"seed": self.seed, **self.conditions, **self.given}


def asked(config: PriorConfig, values: Mapping[str, Any]) -> Asked:
    """Return what a form asks for.

    Args:
        values: n, seed, label (names), text (lines), and sampling settings by name; missing ones are the model's own.

    Raises:
        ConfigError: a value of the wrong type or out of range.
    """
    n = whole_number("the number of images", _whole(values.get("n", 1)), 1, MOST_IMAGES)
    conditions: dict[str, Any] = {}
    if labels := tuple(values.get("label") or ()):
        conditions["label"] = labels
    if texts := tuple(line for line in str(values.get("text") or "").splitlines() if line.strip()):
        conditions["text"] = texts
    given = _settings(config, values)
    return Asked(n, seed_of(values.get("seed", 0)), conditions, given, sampling_settings(config, **given))


def seed_of(value: Any) -> int:
    """Return a seed that was typed. Raises ConfigError."""
    text = str(value).strip().replace(",", "")
    if not text.isascii() or not text.isdigit() or not 0 <= int(text[:40]) <= MAX_SEED:
        raise ConfigError(f"The seed must be a whole number from 0 to {MAX_SEED}, got {str(value)[:40]!r}.")
    return int(text)


def random_seed() -> str:
    """Return a new seed, short enough to read."""
    return str(secrets.randbelow(10**6))


def _settings(config: PriorConfig, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sampling settings that differ from the model's own. Raises ConfigError."""
    given: dict[str, Any] = {}
    for field in fields(SamplingConfig):
        value = values.get(field.name)
        if value is None:
            continue
        value = check(SamplingConfig, field.name, _whole(value) if field.name in WHOLE else value, "the form")
        if value != _own(config, field.name):
            given[field.name] = value
    return given


def _own(config: PriorConfig, name: str) -> Any:
    """Return what the model takes where a setting is not given."""
    own = getattr(config.sampling, name)
    if name == "order":
        return own or ORDERS[config.objective][0]
    return step_count(config, config.sampling) if name == "sampling_steps" else own


def _whole(value: Any) -> Any:
    """Return a float without a fraction as a whole number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
