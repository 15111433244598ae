"""Names of several results: from captions and from files, each once, on any file system."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from typing import TypeVar

Value = TypeVar("Value")

CAPTION_BYTES, STEM_BYTES = 80, 200
"""Longest names of captions and of files, in bytes of UTF-8: file systems allow 255 with the suffix."""
DEVICES = frozenset(
    ["con", "prn", "aux", "nul", *(f"{port}{i}" for port in ("com", "lpt") for i in range(1, 10))]
)
"""Names that Windows keeps for devices."""


def caption_name(caption: str) -> str:
    """Return a caption as a file name without suffix: lower case, its letters and digits of any script, "-" between.

    "image" for a caption without letters and digits.
    """
    text = unicodedata.normalize("NFC", caption).lower()
    # L letters, M marks (vowels of many scripts), N numbers
    words = re.split("-+", "".join(c if unicodedata.category(c)[0] in "LMN" else "-" for c in text))
    name = shortened("-".join(filter(None, words)), CAPTION_BYTES).strip("-") or "image"
    return f"{name}-" if name in DEVICES else name


def shortened(name: str, most: int) -> str:
    """Return the beginning of a name that has at most this many bytes in UTF-8."""
    return name.encode()[:most].decode(errors="ignore")


def distinct(names: Iterable[str], taken: Collection[str] = ()) -> list[str]:
    """Return the names, with "-2", "-3", ... where a name is taken, also in another case."""
    used, result = {name.casefold() for name in taken}, []
    last: dict[str, int] = {}
    for name in names:
        key = name.casefold()
        numbers = itertools.count(last.get(key, 1))
        number = next(i for i in numbers if (f"{key}-{i}" if i > 1 else key) not in used)
        last[key] = number
        result.append(f"{name}-{number}" if number > 1 else name)
        used.add(result[-1].casefold())
    return result


def with_variants(names: Iterable[str], n: int) -> list[str]:
    """Return a name for each of n variants of every name: "name" for one, "name_1", "name_2", ... for several."""
    return [f"{name}_{i}" if n > 1 else name for name in names for i in range(1, n + 1)]


def from_first(values: Sequence[Value], first: int) -> list[Value]:
    """Return values that take turns over image numbers, turned so that image number `first` gets the first one."""
    start = -first % len(values)
    return [*values[start:], *values[:start]]
