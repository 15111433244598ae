"""A token cache that is written part by part, and continues after the last complete part when it was stopped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..options import to_dict
from ..runtime.durable import whole_file
from .arrow import write_table
from .codes import FORMAT, INFO_FILE, CodesInfo, put_in_place, stored_columns

PART = 8192
"""Rows of a part."""
PROGRESS_FILE = "progress.json"
Row = Mapping[str, Any]
Place = tuple[int, int]
"""Shard and row of the next sample."""


class PartialCodes:
    """The parts of a cache that is not complete yet, in `folder/../.name.partial`."""

    def __init__(self, folder: Path, info: CodesInfo) -> None:
        """Keep the complete parts of the same cache; remove those of another one."""
        self.folder, self.info = folder, info
        self.partial = folder.with_name(f".{folder.name}.partial")
        self._identity = json.loads(json.dumps(to_dict(info)))
        self.parts: list[dict[str, Any]] = self._complete_parts()
        """`rows` of each part, and the `next` sample after it."""

    @property
    def rows(self) -> int:
        """Rows of all complete parts."""
        return sum(part["rows"] for part in self.parts)

    @property
    def next(self) -> Place:
        """The sample to go on with."""
        shard, row = self.parts[-1]["next"] if self.parts else (0, 0)
        return shard, row

    def write(self, rows: Iterable[tuple[Row, Place]]) -> None:
        """Write the rows from `next` on, and put the complete cache in place.

        Args:
            rows: as for `write_codes`, each with the place of the sample after it.

        Raises:
            DataError: wrong values, or no rows at all. The complete parts are kept.
        """
        remaining = iter(rows)
        while self._write_part(list(islice(remaining, PART))):
            pass
        if not self.rows:
            raise DataError(f"{self.info.source}: no images to encode in the split {self.info.split!r}")
        content = {"format": FORMAT, "rows": self.rows, **self._identity}
        _write(self.partial / INFO_FILE, content)
        (self.partial / PROGRESS_FILE).unlink()
        put_in_place(self.folder, self.partial)

    def _write_part(self, rows: list[tuple[Row, Place]]) -> bool:
        if not rows:
            return False
        self.partial.mkdir(parents=True, exist_ok=True)
        target = self.partial / f"codes-{len(self.parts):05d}.arrow"
        with whole_file(target, durable=True) as temporary:
            write_table(temporary, stored_columns(self.info), (row for row, _ in rows))
        self.parts.append({"rows": len(rows), "next": rows[-1][1]})
        _write(self.partial / PROGRESS_FILE, {"info": self._identity, "parts": self.parts})
        return True

    def _complete_parts(self) -> list[dict[str, Any]]:
        try:
            progress = json.loads((self.partial / PROGRESS_FILE).read_text(encoding="utf-8"))
            parts = [dict(part) for part in progress["parts"]]
            present = all((self.partial / f"codes-{i:05d}.arrow").is_file() for i in range(len(parts)))
            if progress["info"] == self._identity and present:
                return parts
        except (OSError, ValueError, KeyError, TypeError):
            pass
        shutil.rmtree(self.partial, ignore_errors=True)
        return []


def _write(path: Path, content: Any) -> None:
    with whole_file(path, durable=True) as temporary:
        temporary.write_text(json.dumps(content, indent=2), encoding="utf-8")
