"""Tar shards of samples -> tables by split, whose images stay in the shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .files import File
from .findings import Notes, some
from .folder_table import image_table
from .splits import split_in_stem, split_word
from .tar import MOST_IMAGES, NotSamples, Sample, Skipped, samples_in_place

if TYPE_CHECKING:
    from datasets import Dataset

IMAGE = "image"
"""Column of the images, if each sample has one."""
BUILT_IN = (IMAGE, "key")


def open_shards(root: Path, files: Sequence[File], notes: Notes) -> dict[str, Dataset]:
    """Return one table per split: columns `image`, `label`, `text`, `key`, and those of the JSON files.

    Raises:
        NotSamples: a file holds no samples, or is an archive of class folders.
    """
    splits: dict[str, list[Sample]] = {}
    skipped = Skipped()
    names = split_names([file.path for file in files])
    for file, split in zip(files, names, strict=True):
        splits.setdefault(split, []).extend(samples_in_place(str(root / file.path), skipped))
    samples = [sample for own in splits.values() for sample in own]
    if not samples:
        raise NotSamples(f"{root / files[0].path}: no samples with an image in it")
    check_samples(str(root / files[0].path), samples)
    columns = image_columns(samples)
    notes.read_as(f"{len(files)} tar {'shard' if len(files) == 1 else 'shards'}")
    for line in skipped.lines():
        notes.warn(f"{root}: {line}")
    _note_incomplete(str(root), samples, notes)
    keys = sorted({key for sample in samples for key in sample.values} - {*columns, *BUILT_IN})
    return {name: _table(own, columns, keys) for name, own in splits.items()}


def split_names(paths: Sequence[str]) -> list[str]:
    """Return the split of each shard: from its name or its folder if these name a training split, else 'train'."""
    names = [_split_name(path) for path in paths]
    return names if len(set(names)) > 1 and "train" in names else ["train"] * len(paths)


def _split_name(path: str) -> str:
    *folders, name = path.split("/")
    word = split_in_stem(name.split(".")[0]) or next(filter(None, map(split_word, reversed(folders))), None)
    return "train" if word in (None, "training") else word


def check_samples(where: str, samples: Iterable[Sample]) -> None:
    """Raise NotSamples for an archive of class folders, whose classes are not in any sample."""
    samples = list(samples)
    if worst := next((s for s in samples if len(s.images) > MOST_IMAGES), None):
        raise NotSamples(
            f"{where}: {len(worst.images)} images share the name {worst.key!r} up to the first dot, so it holds "
            f"no samples"
        )
    folders = {sample.key.rpartition("/")[0] for sample in samples}
    if len(folders) > 1 and not any(sample.values for sample in samples):
        raise NotSamples(f"{where}: images in folders ({some(sorted(folders))}), not samples of webdataset")


def image_columns(samples: Iterable[Sample]) -> dict[str, list[str]]:
    """Return column -> the suffixes that it stands for, in order of preference.

    If each sample has one image, whatever its suffix, the column is `image`. `1.map.png` is an image of the column
    `map`. A sample with several images without such a name has one column per suffix.
    """
    kinds = [tuple(name for name in sample.images if "." not in name) for sample in samples]
    counts = Counter(name for kind in kinds for name in kind)
    plain = [name for name, _ in counts.most_common()]
    dotted = sorted({name for sample in samples for name in sample.images if "." in name})
    columns: dict[str, list[str]] = {}
    if plain and all(len(kind) <= 1 for kind in kinds):
        columns[IMAGE] = plain
    else:
        columns = {name: [name] for name in plain}
    for name in dotted:
        columns.setdefault(name.rpartition(".")[0], []).append(name)
    return columns


def cell_of(sample: Sample, suffixes: Iterable[str]) -> dict[str, Any]:
    """Return the image of a sample in a column."""
    return next((sample.images[s] for s in suffixes if s in sample.images), {"bytes": None, "path": None})


def _note_incomplete(where: str, samples: Sequence[Sample], notes: Notes) -> None:
    for name, what in (("label", "a label"), ("text", "a caption")):
        having = sum(name in sample.values for sample in samples)
        if 0 < having < len(samples):
            notes.warn(f"{where}: samples without {what}: {len(samples) - having} of {len(samples)}")


def _table(samples: Sequence[Sample], columns: dict[str, list[str]], keys: Sequence[str]) -> Dataset:
    paths = {
        name: [cell_of(sample, suffixes)["path"] for sample in samples] for name, suffixes in columns.items()
    }
    values = {key: [sample.values.get(key) for sample in samples] for key in keys}
    return image_table(paths, values | {"key": [sample.key for sample in samples]})
