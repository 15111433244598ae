"""The token cache: the codes of every image of a data set, encoded once and memory-mapped from an Arrow file.

T = h*w: tokens per image.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import CheckpointError, ConfigError, DataError, ImgtfError
from ..options import Size, build, to_dict
from .arrow import CacheColumn as CacheColumn
from .arrow import array_blocks, map_tables, write_table
from .order import random_stream

FORMAT = 2
INFO_FILE, CODES_FILE = "cache.json", "codes.arrow"
PARTS = "codes-*.arrow"
"""Files of a cache that was written part by part."""
BUILT_IN = ("codes", "label", "text", "index", "bad")


@dataclass(frozen=True)
class CodesInfo:
    """Everything that decides what a token cache contains."""

    tokenizer_sha256: str
    source: str
    """The data set as given with --data."""
    split: str
    fingerprint: str
    """Identity of the rows (`ImageSource.fingerprint`)."""
    grid: tuple[int, int]
    codebook_size: int
    class_names: tuple[str, ...]
    flips: bool
    """Whether every crop is also stored flipped."""
    image_size: Size
    preprocessing: str
    columns: tuple[CacheColumn, ...] = ()
    """Columns besides `codes`, `label` and `text`."""
    crops: int = 1
    """Crops per image: the centre crop, then random or shifted ones."""
    precision: str = "fp32"
    """Precision of the encoder: bf16 changes about one code in a hundred."""

    def __post_init__(self) -> None:
        names = [*BUILT_IN, *(column.name for column in self.columns)]
        if len(set(names)) < len(names):
            raise ConfigError(f"token cache: a column name is used twice among {', '.join(names)}")

    @property
    def arrays(self) -> tuple[CacheColumn, ...]:
        """The codes and the other columns."""
        codes = CacheColumn("codes", (prod(self.grid),), self.codebook_size, per_crop=True)
        return (codes, *self.columns)


def write_codes(folder: Path, info: CodesInfo, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a cache and replace an existing one. The folder appears complete or not at all.

    Args:
        rows: one mapping per image with `codes` (T,), `label` (int or None), `text` (str or None) and every column of
            `info.columns` by its name. A `per_crop` column also has the names of its other crops and flips (see
            `column_suffix`). Rows are consumed one by one and never held in memory together.

    Raises:
        DataError: wrong shape, values out of range, or no rows.
    """
    folder = Path(folder)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a killed run
    partial.mkdir(parents=True)
    try:
        count = write_table(partial / CODES_FILE, stored_columns(info), rows)
        if not count:
            raise DataError(f"{info.source}: no images to encode in the split {info.split!r}")
        text = json.dumps({"format": FORMAT, "rows": count, **to_dict(info)}, indent=2)
        (partial / INFO_FILE).write_text(text + "\n", encoding="utf-8")
        put_in_place(folder, partial)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def open_codes(folder: Path, *, flip: bool = False, crops: int = 1, seed: int = 0) -> CodesDataset:
    """Open a cache.

    Args:
        flip: return the codes of the flipped image half of the time, if the cache has them.
        crops: return one of the first `crops` crops, chosen per image and epoch: the centre crop half of the time,
            because the images that a prior samples should be like it.
        seed: seed of these choices.

    Raises:
        CheckpointError: no cache in this folder, a damaged one, or one of another format.
    """
    folder = Path(folder)
    info, count = _read_info(folder / INFO_FILE)
    try:
        table = map_tables(_files(folder))
    except Exception as error:  # pyarrow, the operating system and `datasets` raise unrelated types
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{folder / CODES_FILE}: {reason}; delete {folder} to encode again") from None
    wanted = {"label", "text", *stored_columns(info)}
    if table.num_rows != count or not wanted <= set(table.column_names):
        raise CheckpointError(
            f"{folder / CODES_FILE}: {table.num_rows} rows of {', '.join(table.column_names)}, "
            f"expected {count} of {', '.join(sorted(wanted))}; delete {folder} to encode again"
        )
    return CodesDataset(folder, info, table, flip, crops, seed)


class CodesDataset(torch.utils.data.Dataset[dict[str, Any]]):
    """The rows of a cache, indexed by (index, epoch) as `BatchOrder` yields them."""

    def __init__(self, folder: Path, info: CodesInfo, table: Any, flip: bool, crops: int, seed: int) -> None:
        """`table`: the memory-mapped Arrow table; its arrays are not copied."""
        self.folder, self.info, self.seed = folder, info, seed
        self.flip, self.crops = flip and info.flips, min(crops, info.crops)
        self._arrays = {name: array_blocks(table[name], c.shape) for name, c in stored_columns(info).items()}
        self._starts = np.cumsum([0] + [len(block) for block in self._arrays["codes"]])
        self._labels = table["label"].to_numpy()
        self._texts = table["text"] if table["text"].null_count < table.num_rows else None

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.folder, self.flip, self.crops, self.seed)  # a worker maps the file itself

    def __getitem__(self, key: tuple[int, int] | int) -> dict[str, Any]:
        """Return one image.

        Returns:
            codes: (T,) int64. label: class index, or -1. text: caption, or "". index: the given index. bad: always "".
            Every other column by its name, with its shape: int64 if it has a codebook, else float32.
        """
        index, epoch = (int(k) for k in (key if isinstance(key, tuple) else (key, 0)))
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        suffix = self._suffix(index, epoch)
        block = int(np.searchsorted(self._starts, index, side="right")) - 1
        row = index - self._starts[block]
        item: dict[str, Any] = {
            column.name: _tensor(self._arrays[column.name + suffix * column.per_crop][block][row])
            for column in self.info.arrays
        }
        text = self.text(index) or ""
        return item | {"label": int(self._labels[index]), "text": text, "index": index, "bad": ""}

    def text(self, index: int) -> str | None:
        """Return the caption of a row."""
        return None if self._texts is None else self._texts[index].as_py()

    def fits(self, info: CodesInfo) -> bool:
        """Whether this cache can be used where `info` is wanted. It may have flipped codes that `info` lacks."""
        same = (
            "tokenizer_sha256", "fingerprint", "split", "image_size", "preprocessing", "class_names", "precision",
            "crops",
        )  # fmt: skip
        if any(getattr(self.info, name) != getattr(info, name) for name in same):
            return False
        return set(self.info.columns) == set(info.columns) and (self.info.flips or not info.flips)

    def _suffix(self, index: int, epoch: int) -> str:
        """The crop and flip of an image in an epoch, as the suffix of its columns."""
        stream = random_stream(self.seed, epoch, index)
        flipped, crop = stream.random() < 0.5, 0
        if self.crops > 1 and stream.random() < 0.5:
            crop = 1 + int(stream.integers(self.crops - 1))
        return column_suffix(crop, self.flip and bool(flipped))


def column_suffix(crop: int, flipped: bool) -> str:
    """Return the suffix of a `per_crop` column: "" for the centre crop, "_flipped", "_1", "_1_flipped" and so on."""
    return (f"_{crop}" if crop else "") + ("_flipped" if flipped else "")


def stored_columns(info: CodesInfo) -> dict[str, CacheColumn]:
    """Return every array of the file by its name."""
    suffixes = [
        column_suffix(crop, flipped)
        for crop in range(info.crops)
        for flipped in (False, True)[: 1 + info.flips]
    ]
    return {
        column.name + suffix: column
        for column in info.arrays
        for suffix in (suffixes if column.per_crop else [""])
    }


def _files(folder: Path) -> list[Path]:
    """The Arrow files of a cache: one, or the parts of a cache that was written part by part."""
    parts = sorted(folder.glob(PARTS)) if not (folder / CODES_FILE).exists() else []
    return parts or [folder / CODES_FILE]


def _reopen(folder: Path, flip: bool, crops: int, seed: int) -> CodesDataset:
    return open_codes(folder, flip=flip, crops=crops, seed=seed)


def _tensor(row: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(row.astype(np.float32 if row.dtype.kind == "f" else np.int64))


def _read_info(path: Path) -> tuple[CodesInfo, int]:
    if not path.is_file():
        raise CheckpointError(f"{path.parent}: not a token cache ({path.name} is missing)")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        version, count = values.pop("format"), values.pop("rows")
        if version != FORMAT:
            raise CheckpointError(
                f"{path}: format {version}, this version reads {FORMAT}; delete {path.parent} to encode again"
            )
        info = build(CodesInfo, values, str(path))
        if len(info.grid) != 2 or min(info.grid) < 1 or not isinstance(count, int):
            raise ValueError(f"grid {info.grid} of {count} rows")
    except CheckpointError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OSError, ImgtfError) as error:
        raise CheckpointError(f"{path}: damaged ({error}); delete {path.parent} to encode again") from None
    return info, count


def put_in_place(folder: Path, partial: Path) -> None:
    """Put the new folder in place. A kill between the two renames leaves no cache, which is encoded again."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
