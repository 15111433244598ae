"""Names for a public model card in place of paths of this machine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

from ..data.tables import looks_like_path

PATH_SETTINGS = ("data", "init_from", "conditioning_model", "text_encoder", "lpips_file")
"""Settings that can be a path or an id of the Hub."""
_PART = r"[^\s,;:()'\"`\\/]"
_ABSOLUTE = re.compile(rf"(?<![\w.:/\\~-])(?:~|[A-Za-z]:)?[\\/](?:{_PART}+[\\/])*({_PART}+)")


def is_local(value: str) -> bool:
    """Return whether a setting names something on this machine, or on another server, rather than on the Hub."""
    return "://" in value or looks_like_path(value) or Path(value).expanduser().exists()


def public_name(value: str) -> str:
    """Return the last part of a path; ids of the Hub and names such as `digits` as they are."""
    if not is_local(value):
        return value
    return PureWindowsPath(Path(value).expanduser().resolve().name or value).name or "root"


def without_paths(text: str, *known: str) -> str:
    """Return a text with the name in place of every path: of `known` values of settings, and of absolute paths."""
    for value in known:
        if is_local(value):
            for spelling in (str(Path(value).expanduser().resolve()), value):
                text = text.replace(spelling, public_name(value))
    return _ABSOLUTE.sub(r"\1", text)


def public_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a run without the paths of the machine that it ran on."""
    return {name: _public(name, value) for name, value in settings.items()}


def _public(name: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return public_name(value) if name in PATH_SETTINGS else without_paths(value)
