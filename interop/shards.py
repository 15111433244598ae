"""Weights in several files: `model-00001-of-00002.safetensors`, and the `.index.json` that lists them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from ..errors import CheckpointError

INDEX = ".index.json"
SHARD = re.compile(r"(?P<name>.+)-\d{5}-of-(?P<count>\d{5})(?P<suffix>\.\w+)")


def shard_files(path: Path) -> list[Path]:
    """Return all files of the weights that a file belongs to: itself, or every shard.

    Raises:
        CheckpointError: a shard is missing, or the index cannot be read.
    """
    if path.name.endswith(INDEX):
        files = _listed(path)
    elif match := SHARD.fullmatch(path.name):
        count = int(match["count"])
        names = [f"{match['name']}-{i:05}-of-{count:05}{match['suffix']}" for i in range(1, count + 1)]
        files = [path.with_name(name) for name in names]
    else:
        return [path]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise CheckpointError(
            f"{path}: {len(missing)} of {len(files)} shards are missing: {', '.join(missing[:4])}; "
            f"download them into the same folder"
        )
    return files


def one_per_model(files: Sequence[Path]) -> list[Path]:
    """Return the first file of each model: its other shards are read with it."""
    chosen: dict[tuple[Path, str], Path] = {}
    for file in files:
        match = SHARD.fullmatch(file.name)
        name = match["name"] + match["suffix"] if match else file.name.removesuffix(INDEX)
        chosen.setdefault((file.parent, name), file)
    return list(chosen.values())


def _listed(index: Path) -> list[Path]:
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        files = sorted({str(name) for name in names})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{index}: not an index of shards ({error!r}); download it again") from None
    if not files or any(Path(name).name != name for name in files):
        raise CheckpointError(f"{index}: lists no shards in its own folder; download it again")
    return [index.with_name(name) for name in files]
