"""Settings declared once: a dataclass field is a Python argument, a command-line option and a TOML key.

No heavy import here: the command line reads these classes to print its help.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from .errors import ConfigError

T = TypeVar("T")


def option(
    default: Any,
    help: str,
    *,
    choices: tuple[Any, ...] = (),
    minimum: float | None = None,
    maximum: float | None = None,
    auto: str | None = None,
    group: str = "other",
    common: bool = False,
) -> Any:
    """A dataclass field with its documentation and its bounds.

    Args:
        help: one line of at most about 80 characters.
        auto: what a default of None stands for, in words.
        group: heading under which the command line lists the option.
        common: whether `--help` shows it; `--help-all` shows every option.
    """
    metadata = {
        "help": help, "choices": choices, "minimum": minimum, "maximum": maximum, "auto": auto,
        "group": group, "common": common,
    }  # fmt: skip
    return dataclasses.field(default=default, metadata=metadata)


@cache
def field_types(cls: type) -> dict[str, tuple[type, bool, bool]]:
    """For each field: (its plain type, whether it is a tuple of that type, whether None is allowed)."""
    return {name: _plain(hint) for name, hint in get_type_hints(cls).items()}


def build(cls: type[T], values: Mapping[str, Any], where: str = "settings") -> T:
    """Makes the dataclass from a mapping, strictly.

    Args:
        values: field name -> value, as TOML or JSON gives it (lists stand for tuples).
        where: names the origin of the values in an error.

    Raises:
        ConfigError: for an unknown key, a wrong type, a value out of range, or a required key missing.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise ConfigError(f"{where}: unknown key {', '.join(unknown)}; known are {', '.join(sorted(fields))}")
    missing = [name for name, field in fields.items() if _required(field) and name not in values]
    if missing:
        raise ConfigError(f"{where}: {', '.join(missing)} is missing")
    return cls(**{name: check(cls, name, value, where) for name, value in values.items()})


def check(cls: type, name: str, value: Any, where: str = "settings") -> Any:
    """One value of the field `name`, converted to its type and within its bounds, or a ConfigError."""
    plain, many, optional = field_types(cls)[name]
    if value is None and optional:
        return None
    if many:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where}: {name} must be a list of {plain.__name__}, got {value!r}")
        return tuple(_scalar(cls, name, v, plain, where) for v in value)
    return _scalar(cls, name, value, plain, where)


def to_dict(settings: Any) -> dict[str, Any]:
    """The reverse of `build`: plain values for JSON and TOML (tuples become lists)."""
    return {f.name: _to_plain(getattr(settings, f.name)) for f in dataclasses.fields(settings)}


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _to_plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    return [_to_plain(item) for item in value] if isinstance(value, tuple) else value


def _plain(hint: Any) -> tuple[type, bool, bool]:
    optional = False
    if get_origin(hint) in (Union, types.UnionType):
        inner = [a for a in get_args(hint) if a is not type(None)]
        optional, hint = len(inner) < len(get_args(hint)), inner[0]
    if get_origin(hint) is tuple:
        return get_args(hint)[0], True, optional
    return hint, False, optional


def _scalar(cls: type, name: str, value: Any, plain: type, where: str) -> Any:
    if plain is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if dataclasses.is_dataclass(plain) and isinstance(value, Mapping):
        choose = getattr(plain, "class_of", None)  # a base class picks the subclass by what the mapping says
        return build(choose(value) if choose else plain, value, f"{where}: {name}")
    if not isinstance(value, plain) or (isinstance(value, bool) and plain is not bool):
        raise ConfigError(f"{where}: {name} must be {plain.__name__}, got {value!r}")
    bounds = next(f for f in dataclasses.fields(cls) if f.name == name).metadata
    if bounds.get("choices") and value not in bounds["choices"]:
        raise ConfigError(
            f"{where}: {name} must be one of {', '.join(map(str, bounds['choices']))}, got {value!r}"
        )
    if bounds.get("minimum") is not None and not value >= bounds["minimum"]:
        raise ConfigError(f"{where}: {name} must be at least {bounds['minimum']}, got {value}")
    if bounds.get("maximum") is not None and not value <= bounds["maximum"]:
        raise ConfigError(f"{where}: {name} must be at most {bounds['maximum']}, got {value}")
    return value
