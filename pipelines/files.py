"""Names of result files, and what protects files that exist. No heavy imports."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

from ..errors import ConfigError


def reconstruction_files(images: Iterable[Path], out: Path) -> list[Path]:
    """Return the file of each image's reconstruction: `out/NAME.png`, or `out/NAME-2.png` where that is taken."""
    names: list[str] = []
    for image in images:
        candidates = (f"{image.stem}-{i}" if i > 1 else image.stem for i in itertools.count(1))
        names.append(next(name for name in candidates if name not in names))
    return [out / f"{name}.png" for name in names]


def check_files(files: Iterable[Path], force: bool) -> None:
    """Raise a ConfigError for a file that would be overwritten, unless `force` is given."""
    for file in files:
        if file.exists() and not force:
            raise ConfigError(f"{file} exists: name another folder with --out, or replace it with --force")
