"""Where judges and reference statistics are kept, so that all models of a data set are measured by the same ones."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any


def cache_folder() -> Path:
    """The user's cache folder for evaluations: `$XDG_CACHE_HOME/imgtf`, or `~/.cache/imgtf`."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "imgtf" / "evaluation"


def cache_key(parts: dict[str, Any]) -> str:
    """A short name for everything that a cached result depends on."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
