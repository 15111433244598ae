"""Where a run's settings come from: preset, then configuration file, then what was given by hand."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import tomli_w

from ..data.config import DataConfig
from ..errors import ConfigError
from ..options import build, to_dict

T = TypeVar("T")
ROOT = Path(__file__).parents[1]
PRESET_NOTES = ("about", "expect")
"""Keys of a preset that describe it and set nothing."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Flat settings by option name."""

    preset: str
    values: Mapping[str, Any]
    """All that is set, by whichever layer."""
    explicit: frozenset[str]
    """Names that the user set, in a file or by hand; the rest may follow the data."""

    def part(self, cls: type[T], **fixed: Any) -> T:
        """The settings that belong to one configuration class; `fixed` wins over them."""
        own = {name: self.values[name] for name in option_names(cls) if name in self.values}
        return build(cls, own | fixed)

    def save(self, path: Path, parts: Iterable[Any]) -> None:
        """Writes the resolved settings as TOML that `--config` takes back."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(tomli_w.dumps(self.resolved(parts)))

    def resolved(self, parts: Iterable[Any]) -> dict[str, Any]:
        """Everything that is set, by option name, as the parts of a run have it in the end."""
        values: dict[str, Any] = {"preset": self.preset}
        for part in parts:
            names = option_names(type(part))
            values |= {k: v for k, v in to_dict(part).items() if k in names and v is not None}
        return values


def collect(
    room: str,
    classes: Iterable[type],
    given: Mapping[str, Any],
    config: Path | None = None,
    inherit: Path | None = None,
) -> Settings:
    """Layers preset, TOML file and given values for the classes of one command.

    Args:
        inherit: settings of another run; where no data is named, its data settings stand.

    Raises:
        ConfigError: for an unknown preset, an unreadable file, or a key that no class knows.
    """
    from_file = read_toml(config) if config else {}
    explicit = from_file | dict(given)
    presets = load_presets(room)
    preset = explicit.pop("preset", None) or "tiny"
    if preset not in presets:
        raise ConfigError(f"no preset {preset!r} for the {room}; there are {', '.join(presets)}")
    known = {name for cls in classes for name in option_names(cls)}
    unknown = sorted(set(from_file) - known - {"preset"})
    if unknown:
        raise ConfigError(
            f"{config}: unknown key {', '.join(unknown)}; see the command's --help for the names"
        )
    base = {k: v for k, v in presets[preset].items() if k not in PRESET_NOTES}
    if inherit and inherit.exists() and "data" not in explicit:
        base |= {k: v for k, v in read_toml(inherit).items() if k in option_names(DataConfig)}
    return Settings(preset, base | explicit, frozenset(explicit))


def load_presets(room: str) -> dict[str, dict[str, Any]]:
    """The presets of the tokenizer or the prior, by name, in the order of their sizes."""
    return read_toml(ROOT / room / "presets.toml")


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a dict, or a ConfigError that says what is wrong with it."""
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: not readable as TOML ({error})") from error


def option_names(cls: type) -> list[str]:
    """The fields of a configuration class that are options (the others follow from data or models)."""
    return [f.name for f in dataclasses.fields(cls) if "help" in f.metadata]
