"""Options declared once: a dataclass field is a Python argument, a command-line option and a TOML key.

No heavy imports: the command line reads these classes to print its help.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import re
import types
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from .errors import ConfigError

T = TypeVar("T")
Size = int | tuple[int, int]
"""Type of a size in pixels: the side of a square, or (height, width). A square is always held as its side."""
MAX_INT, MAX_FLOAT = 2**31 - 1, 1e12
"""Largest value of an option that sets no maximum of its own. A tensor of float32 holds it."""
MOST_VALUES = 64
"""Largest number of values of an option with several."""
SHOWN = 60
"""Characters of a wrong value in an error."""


def option(
    default: Any,
    help: str,
    *,
    choices: tuple[Any, ...] = (),
    minimum: float | None = None,
    maximum: float | None = None,
    most: int = MOST_VALUES,
    auto: str | None = None,
    group: str = "other",
    common: bool = False,
) -> Any:
    """A dataclass field with its documentation and its bounds.

    Args:
        help: one line of at most about 80 characters.
        minimum, maximum: bounds, inclusive. The default maximum is `MAX_INT` or `MAX_FLOAT`.
        most: largest number of values of a tuple.
        auto: what a default of None stands for, in words.
        group: heading under which the command line lists the option.
        common: whether `--help` shows it; `--help-all` shows every option.
    """
    metadata = {
        "help": help, "choices": choices, "minimum": minimum, "maximum": maximum, "most": most, "auto": auto,
        "group": group, "common": common,
    }  # fmt: skip
    return dataclasses.field(default=default, metadata=metadata)


def bounded(
    default: Any = dataclasses.MISSING,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    least: int = 0,
    most: int = MOST_VALUES,
) -> Any:
    """A dataclass field with bounds that is no option: it follows from data or models.

    Args:
        minimum, maximum: bounds, inclusive.
        least, most: bounds of the number of values of a tuple.
    """
    metadata = {"minimum": minimum, "maximum": maximum, "least": least, "most": most}
    return dataclasses.field(default=default, metadata=metadata)


@cache
def field_types(cls: type) -> dict[str, tuple[type, bool, bool]]:
    """Types of the fields: (plain type, whether the field is a tuple of it, whether None is allowed)."""
    return {name: _plain(hint) for name, hint in get_type_hints(cls).items()}


@cache
def is_size(cls: type, name: str) -> bool:
    """Whether a field is a `Size`."""
    return get_type_hints(cls)[name] in (Size, Size | None)


def bounds(cls: type, name: str) -> tuple[Any, Any]:
    """The smallest and the largest value of a field; None where it has no such bound."""
    metadata = _field(cls, name).metadata
    maximum = metadata.get("maximum")
    if maximum is None and metadata:
        maximum = {int: MAX_INT, float: MAX_FLOAT}.get(field_types(cls)[name][0])
    return metadata.get("minimum"), maximum


def build(cls: type[T], values: Mapping[str, Any], where: str = "settings") -> T:
    """Build the dataclass from a mapping, strictly.

    Args:
        values: field name -> value, as TOML, JSON or Python gives it. Lists and arrays stand for tuples, NumPy
            numbers for numbers, paths for strings, and text such as "192x128" for sizes.
        where: origin of the values, for errors.

    Raises:
        ConfigError: for an unknown key, a wrong type, a value out of range, or a missing required key.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise unknown_key(where, unknown[0], fields)
    missing = [name for name, field in fields.items() if _required(field) and name not in values]
    if missing:
        raise ConfigError(f"{where}: {', '.join(missing)} is missing")
    return cls(**{name: check(cls, name, value, where) for name, value in values.items()})


def check(cls: type, name: str, value: Any, where: str = "settings") -> Any:
    """Return a value for the field `name`, converted to the field's type.

    Raises:
        ConfigError: for a wrong type, NaN, infinity, a value out of range, or None where the field does not allow it.
    """
    plain, many, optional = field_types(cls)[name]
    value = _to_python(value)
    if value is None and optional:
        return None
    if is_size(cls, name):
        sides = sides_of(to_size(value, f"{where}: {name}"))
        return to_size([_scalar(cls, name, side, int, where) for side in sides])
    if many:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where}: {name} must be a list of {plain.__name__}, got {shown(value)}")
        _check_count(_field(cls, name).metadata, len(value), f"{where}: {name}")
        return tuple(_scalar(cls, name, _to_python(v), plain, where) for v in value)
    return _scalar(cls, name, value, plain, where)


def to_size(value: Any, where: str = "size") -> Size:
    """Return a size from a whole number, two of them (height, width), or text such as "64" and "192x128".

    Raises:
        ConfigError: for anything else. The bounds of the sides are not checked.
    """
    value = _to_python(value)
    if isinstance(value, str):
        value = _sides_in(value) or value
    sides = value if isinstance(value, (list, tuple)) else [value]
    whole = [side for side in map(_to_python, sides) if isinstance(side, int) and not isinstance(side, bool)]
    if len(whole) != len(sides) or len(whole) not in (1, 2):
        raise ConfigError(
            f"{where} must be one side, such as 64, or height and width, such as 192x128; got {shown(value)}"
        )
    return whole[0] if len(set(whole)) == 1 else (whole[0], whole[1])


def sides_of(size: Size) -> tuple[int, int]:
    """Return height and width."""
    return (size, size) if isinstance(size, int) else size


def size_text(size: Size) -> str:
    """The reverse of `to_size`: "64" or "192x128" (height x width)."""
    return str(size) if isinstance(size, int) else "x".join(map(str, size))


def unknown_key(where: str, key: str, known: Iterable[str]) -> ConfigError:
    """The error for a key that is not among the known ones. It names the nearest of those, or all of them."""
    near = difflib.get_close_matches(key[:SHOWN], list(known), n=3)
    hint = f"did you mean {', '.join(near)}?" if near else f"known are {', '.join(sorted(known))}"
    return ConfigError(f"{where}: unknown key {key:.{SHOWN}}; {hint}")


def shown(value: Any) -> str:
    """Return a wrong value as an error shows it: at most `SHOWN` characters."""
    try:
        return f"{value!r:.{SHOWN}}"
    except (ValueError, RecursionError):  # Python does not write numbers of more than 4,300 digits
        return f"{type(value).__name__} of thousands of digits or levels"


def whole_number(name: str, value: Any, minimum: int, maximum: int) -> int:
    """Return a whole number within its bounds; NumPy's count too.

    Raises:
        ConfigError: for another type or a value out of range; the message names the argument.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ConfigError(f"{name} must be a whole number, got {shown(value)}")
    number = int(value.__index__())
    if not minimum <= number <= maximum:
        raise ConfigError(f"{name} must be from {minimum} to {maximum}, got {shown(number)}")
    return number


def check_kept(settings: Any, values: Mapping[str, Any], where: str = "settings") -> None:
    """Raise ConfigError where the settings have another value than the one given, because it follows from others."""
    for name, value in values.items():
        given, own = check(type(settings), name, value, where), getattr(settings, name)
        if given is not None and given != own:
            raise ConfigError(
                f"{where}: {name} is {shown(given)}, but the other settings make it {shown(own)}"
            )


def to_dict(settings: Any) -> dict[str, Any]:
    """The reverse of `build`: plain values for JSON and TOML (tuples become lists)."""
    return {f.name: _to_plain(getattr(settings, f.name)) for f in dataclasses.fields(settings)}


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _field(cls: type, name: str) -> dataclasses.Field[Any]:
    return next(f for f in dataclasses.fields(cls) if f.name == name)


def _to_plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    return [_to_plain(item) for item in value] if isinstance(value, tuple) else value


def _to_python(value: Any) -> Any:
    """NumPy and PyTorch numbers and arrays, and paths, as Python's own types."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _sides_in(text: str) -> list[int]:
    """The sides in text such as "64" or "192x128"; empty for other text."""
    found = re.fullmatch(r"\s*(\d{1,1000})(?:\s*[xX]\s*(\d{1,1000}))?\s*", text, re.ASCII)
    return [int(side) for side in found.groups() if side] if found else []


def _plain(hint: Any) -> tuple[type, bool, bool]:
    optional = False
    if get_origin(hint) in (Union, types.UnionType):
        inner = [a for a in get_args(hint) if a is not type(None)]
        optional, hint = len(inner) < len(get_args(hint)), inner[0]
    if get_origin(hint) is tuple:
        return get_args(hint)[0], True, optional
    return hint, False, optional


def _scalar(cls: type, name: str, value: Any, plain: type, where: str) -> Any:
    if dataclasses.is_dataclass(plain) and isinstance(value, Mapping):
        choose = getattr(
            plain, "class_of", None
        )  # a base class chooses the subclass that the mapping describes
        return build(choose(value) if choose else plain, value, f"{where}: {name}")
    if plain is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 2**1023 else math.inf
    if not isinstance(value, plain) or (isinstance(value, bool) and plain is not bool):
        raise ConfigError(f"{where}: {name} must be {plain.__name__}, got {shown(value)}")
    if isinstance(value, str):
        _check_text(value, "help" in _field(cls, name).metadata, f"{where}: {name}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where}: {name} must be a finite number, got {value}")
    choices = _field(cls, name).metadata.get("choices")
    if choices and value not in choices:
        raise ConfigError(
            f"{where}: {name} must be one of {', '.join(map(str, choices))}, got {shown(value)}"
        )
    _check_range(*bounds(cls, name), value, f"{where}: {name}")
    return value


def _check_text(value: str, is_option: bool, where: str) -> None:
    """ConfigError for text that is not Unicode, and for a NUL in an option, which may be the name of a file."""
    if is_option and "\0" in value:
        raise ConfigError(f"{where} must not contain a NUL character, got {shown(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{where} must be Unicode text, got {shown(value)}") from None


def _check_count(metadata: Mapping[str, Any], count: int, where: str) -> None:
    """ConfigError for too few or too many values of a tuple."""
    least, most = metadata.get("least", 0), metadata.get("most", count)
    if not least <= count <= most:
        wanted = str(least) if least == most else f"{least} to {most}"
        raise ConfigError(f"{where} must have {wanted} values, got {count}")


def _check_range(minimum: float | None, maximum: float | None, value: Any, where: str) -> None:
    """ConfigError for a value below the minimum or above the maximum."""
    low, high = (f"{bound:.12g}" if isinstance(bound, float) else bound for bound in (minimum, maximum))
    both = f"; the range is {low} to {high}" if None not in (minimum, maximum) else ""
    if minimum is not None and value < minimum:
        raise ConfigError(f"{where} must be at least {low}, got {shown(value)}{both}")
    if maximum is not None and value > maximum:
        raise ConfigError(f"{where} must be at most {high}, got {shown(value)}{both}")
