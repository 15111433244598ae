"""The token cache: every image of a data set as codes, encoded once, mapped into memory from Arrow."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import CheckpointError, DataError, ImgtfError
from ..options import build, to_dict

FORMAT = 1
INFO_FILE, CODES_FILE = "cache.json", "codes.arrow"
BLOCK = 1024  # rows written at a time


@dataclass(frozen=True)
class CodesInfo:
    """What the codes were made from and by: two caches with the same are interchangeable."""

    tokenizer_sha256: str
    source: str
    split: str
    fingerprint: str
    grid: tuple[int, int]
    codebook_size: int
    class_names: tuple[str, ...]
    flips: bool
    image_size: int
    preprocessing: str
    source_of: str = ""
    """What the source pictures' codes were made from; empty where there are none."""
    image_sha256: str = ""
    """Identity of the tokenizer of the source pictures."""
    image_grid: tuple[int, ...] = ()
    image_codebook_size: int = 0
    text_encoder: str = ""
    """What made features of the captions; empty where there are none."""
    feature_shape: tuple[int, ...] = ()
    """(S, F)."""
    views: int = 1
    """Crops of each image: its middle, and others at random places."""
    precision: str = "fp32"
    """The arithmetic of the encoder, which decides about one code in a hundred; caches that do not say were fp32."""

    @property
    def source_tokens(self) -> int:
        """Codes of a source picture."""
        return self.image_grid[0] * self.image_grid[1] if self.image_grid else 0


def write_codes(folder: Path, info: CodesInfo, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes a cache, replacing one that is there; it appears whole or not at all.

    Args:
        rows: mappings with `codes` (T,) of whole numbers in [0, codebook_size), `codes_flipped` (T,) where
            `info.flips`, `codes_1` and so on of `info.views`, `label` or None, `text` or None, and where the info has
            them `source` with the same endings and `features` (S, F). Taken one after the other, never all in memory.

    Raises:
        DataError: codes of another length or out of range, or no rows at all.
    """
    folder = Path(folder)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    partial.mkdir(parents=True)
    try:
        count = _write_arrow(partial / CODES_FILE, info, rows)
        if not count:
            raise DataError(f"{info.source}: no images to encode in {info.split}")
        text = json.dumps({"format": FORMAT, "rows": count, **to_dict(info)}, indent=2)
        (partial / INFO_FILE).write_text(text + "\n")
        _swap(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def open_codes(folder: Path, *, augment: bool = False, views: int = 1, seed: int = 0) -> CodesDataset:
    """Opens a cache.

    Args:
        augment: give the codes of the mirrored image half of the time, where the cache has them.
        views: give those of one of the first `views` crops, chosen anew each epoch.

    Raises:
        CheckpointError: there is none, or it is damaged or of another version.
    """
    folder = Path(folder)
    info, count = _read_info(folder / INFO_FILE)
    try:
        table = _map(folder / CODES_FILE)
    except Exception as error:  # pyarrow's, the system's, or that of `datasets`
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{folder / CODES_FILE}: {reason}; delete {folder} to encode again") from None
    wanted = {"label", "text", *_code_columns(info)} | ({"features"} if info.text_encoder else set())
    if table.num_rows != count or not wanted <= set(table.column_names):
        raise CheckpointError(
            f"{folder / CODES_FILE}: {table.num_rows} rows of {', '.join(table.column_names)}, "
            f"expected {count} of {', '.join(sorted(wanted))}; delete {folder} to encode again"
        )
    return CodesDataset(folder, info, table, augment, views, seed)


class CodesDataset(torch.utils.data.Dataset[dict[str, Any]]):
    """The rows of a cache; asked for by (index, epoch), as `BatchOrder` draws them."""

    def __init__(
        self, folder: Path, info: CodesInfo, table: Any, augment: bool, views: int, seed: int
    ) -> None:
        """`table`: the Arrow table; its codes are looked at in place."""
        self.folder, self.info, self.seed = folder, info, seed
        self.augment, self.views = augment and info.flips, min(views, info.views)
        self._codes = {name: _views(table[name], length) for name, length in _code_columns(info).items()}
        if info.text_encoder:
            self._codes["features"] = _views(table["features"], int(np.prod(info.feature_shape)))
        self._starts = np.cumsum([0] + [len(view) for view in self._codes["codes"]])
        self._labels = table["label"].to_numpy()
        self._texts = table["text"] if table["text"].null_count < table.num_rows else None

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.folder, self.augment, self.views, self.seed)  # a worker maps the file itself

    def __getitem__(self, key: tuple[int, int] | int) -> dict[str, Any]:
        """codes: (T,) int64. label: its class, -1 without. text: "" without. index. bad: always "".

        Where the cache has them: source (T',) int64, features (S, F) float32.
        """
        index, epoch = key if isinstance(key, tuple) else (key, 0)
        suffix = self._picture(index, epoch)
        item: dict[str, Any] = {
            "codes": self._row("codes" + suffix, index),
            "label": int(self._labels[index]),
            "text": self.text(index) or "",
            "index": index,
            "bad": "",
        }
        if self.info.image_grid:
            item["source"] = self._row("source" + suffix, index)
        if self.info.text_encoder:
            item["features"] = self._row("features", index).view(self.info.feature_shape)
        return item

    def text(self, index: int) -> str | None:
        """The caption of a row."""
        return None if self._texts is None else self._texts[index].as_py()

    def fits(self, info: CodesInfo) -> bool:
        """Whether these codes are what encoding with `info` would give (the flipped ones may be to spare)."""
        same = (
            "tokenizer_sha256", "fingerprint", "split", "image_size", "preprocessing", "class_names",
            "source_of", "image_sha256", "text_encoder", "precision", "views",
        )  # fmt: skip
        if any(getattr(self.info, name) != getattr(info, name) for name in same):
            return False
        return self.info.flips or not info.flips

    def _picture(self, index: int, epoch: int) -> str:
        """Which picture of an image an epoch reads: the ending of its columns."""
        stream = np.random.default_rng((self.seed % 2**64, epoch, index))
        mirrored, view = stream.random() < 0.5, int(stream.integers(self.views))
        return ending(view, self.augment and bool(mirrored))

    def _row(self, column: str, index: int) -> torch.Tensor:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        block = int(np.searchsorted(self._starts, index, side="right")) - 1
        row = self._codes[column][block][index - self._starts[block]]
        return torch.from_numpy(row.astype(np.float32 if row.dtype.kind == "f" else np.int64))


def ending(view: int, mirrored: bool) -> str:
    """Of the names of a picture's columns: "" for the centre crop, "_flipped" for its mirror image, "_1" for another
    view."""
    return (f"_{view}" if view else "") + ("_flipped" if mirrored else "")


def _code_columns(info: CodesInfo) -> dict[str, int]:
    """The columns of codes by name, with their lengths."""
    columns = {"codes": info.grid[0] * info.grid[1]}
    if info.image_grid:
        columns["source"] = info.source_tokens
    endings = [
        ending(view, mirrored) for view in range(info.views) for mirrored in (False, True)[: 1 + info.flips]
    ]
    return {name + e: n for e in endings for name, n in columns.items()}


def _codebook(info: CodesInfo, column: str) -> int:
    return info.image_codebook_size if column.startswith("source") else info.codebook_size


def _reopen(folder: Path, augment: bool, views: int, seed: int) -> CodesDataset:
    return open_codes(folder, augment=augment, views=views, seed=seed)


def _map(path: Path) -> Any:
    from datasets import Dataset

    if not path.is_file():
        raise FileNotFoundError("the file is missing")
    return Dataset.from_file(str(path)).data.table


def _views(column: Any, length: int) -> list[np.ndarray]:
    """(rows, T) views into the mapped file, one for each block it was written in."""
    return [chunk.flatten().to_numpy(zero_copy_only=True).reshape(-1, length) for chunk in column.chunks]


def _read_info(path: Path) -> tuple[CodesInfo, int]:
    if not path.is_file():
        raise CheckpointError(f"{path.parent}: no token cache here ({path.name} is missing)")
    try:
        values = json.loads(path.read_text())
        version, count = values.pop("format"), values.pop("rows")
        if version != FORMAT:
            raise CheckpointError(
                f"{path}: format {version}, this version reads {FORMAT}; delete {path.parent}"
            )
        info = build(CodesInfo, values, str(path))
        if len(info.grid) != 2 or min(info.grid) < 1 or not isinstance(count, int):
            raise ValueError(f"grid {info.grid} of {count} rows")
    except CheckpointError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OSError, ImgtfError) as error:
        raise CheckpointError(f"{path}: damaged ({error}); delete {path.parent} to encode again") from None
    return info, count


def _write_arrow(path: Path, info: CodesInfo, rows: Iterable[Mapping[str, Any]]) -> int:
    import pyarrow as pa

    schema = pa.schema({"label": pa.int64(), "text": pa.string()})
    for name, length in _code_columns(info).items():
        kind = pa.uint16() if _codebook(info, name) <= 2**16 else pa.uint32()
        schema = schema.append(pa.field(name, pa.list_(kind, length)))
    if info.text_encoder:
        schema = schema.append(pa.field("features", pa.list_(pa.float16(), int(np.prod(info.feature_shape)))))
    count = 0
    with path.open("wb") as file:
        with pa.ipc.new_stream(file, schema) as writer:  # the format `datasets` maps
            for block in _blocks(rows):
                writer.write_batch(_batch(block, count, info, schema))
                count += len(block)
        file.flush()
        os.fsync(file.fileno())
    return count


def _blocks(rows: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    block = []
    for row in rows:
        block.append(row)
        if len(block) == BLOCK:
            yield block
            block = []
    if block:
        yield block


def _batch(block: list[Mapping[str, Any]], start: int, info: CodesInfo, schema: Any) -> Any:
    import pyarrow as pa

    def column(field: Any) -> Any:
        if field.name == "label":
            return pa.array([-1 if r.get("label") is None else int(r["label"]) for r in block], field.type)
        if field.name == "text":
            return pa.array([r.get("text") or None for r in block], field.type)
        arrays = [_checked(r.get(field.name), start + i, field.name, info) for i, r in enumerate(block)]
        flat = np.concatenate(arrays).astype(field.type.value_type.to_pandas_dtype())
        return pa.FixedSizeListArray.from_arrays(pa.array(flat), field.type.list_size)

    return pa.record_batch([column(field) for field in schema], schema=schema)


def _checked(values: Any, row: int, name: str, info: CodesInfo) -> np.ndarray:
    array = np.asarray(values)
    if name == "features":
        if array.shape != tuple(info.feature_shape):
            raise DataError(f"row {row}: features {array.shape}, expected {tuple(info.feature_shape)}")
        return array.reshape(-1)
    length, V = _code_columns(info)[name], _codebook(info, name)
    if array.shape != (length,) or array.dtype.kind not in "iu":
        raise DataError(
            f"row {row}: {name} is {array.dtype} {array.shape}, expected whole numbers ({length},)"
        )
    if array.min() < 0 or array.max() >= V:
        raise DataError(f"row {row}: {name} from {array.min()} to {array.max()}, the codebook has {V}")
    return array


def _swap(partial: Path, folder: Path) -> None:
    """Puts the new folder in place; a kill between the two renames leaves none, which is encoded again."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
