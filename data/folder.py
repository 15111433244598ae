"""A folder of images -> tables by split.

`load_dataset("imagefolder")` of datasets 5.2 is not used, for these reasons: with one file named `test_9.png`, the data
set consists of that image only; class names are lost if there is metadata or folders are nested unevenly; images
without a row of metadata are dropped silently; symlinks and names with [ ] * are not found.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DataError
from .captions import TEXT_NAMES, Sidecars, read_sidecars
from .files import ARCHIVE_SUFFIXES, OTHER_IMAGE_SUFFIXES, PLUGINS, File, advice, image_suffixes
from .findings import Notes, some
from .folder_labels import folder_labels, parts_of
from .folder_table import ImageRow, build_tables
from .labels import LABEL_NAMES, in_order
from .metadata import Metadata, read_metadata
from .metadata_files import SUFFIXES as METADATA_SUFFIXES
from .metadata_files import names_files, plain
from .splits import is_train, split_level, split_word

if TYPE_CHECKING:
    from datasets import Dataset

NO_SUFFIX = "without suffix"
_SHARD = re.compile(r"(.*\d{3,})(_stats)?\.(json|parquet)")
"""Files that img2dataset writes next to the folder of a shard: 00000.parquet, 00000_stats.json."""


def open_folder(root: Path, files: list[File], notes: Notes) -> dict[str, Dataset]:
    """Return the tables of an image folder: columns `image`, `label`, `text` and those of the metadata.

    Raises:
        DataError: no images, or metadata that cannot be read with certainty; names the file and the row.
    """
    images = images_of(root, files, notes)
    sidecars = read_sidecars(root, files, images, notes)
    shards = _shards(files, images)
    candidates = _metadata_candidates(root, files, sidecars, shards)
    metadata = read_metadata(root, candidates, images, notes)
    note_other_files(root, files, {*sidecars.files, *metadata.files, *shards}, notes)
    images = _without_conditioning_images(root, images, metadata, notes)
    splits = _splits(root, images, metadata, notes)
    kept = [path for members in splits.values() for path in members]
    captions = _captions(root, kept, metadata, sidecars, notes)
    rows = {name: _rows(members, metadata, captions) for name, members in splits.items()}
    labels = _labels(root, splits, metadata, sidecars, shards, notes)
    _note_images_without_row(root, kept, metadata, notes)
    notes.layout += "".join(f", {file}" for file in metadata.files[:3])
    notes.layout += ", captions next to the images" if captions else ""
    return build_tables(root, rows, labels, in_order(labels.values()))


def images_of(root: Path, files: Sequence[File], notes: Notes) -> list[str]:
    """Return the image files that can be read; note the others.

    Raises:
        DataError: there are none; says what to do about what is there instead.
    """
    readable = image_suffixes()
    images = [file.path for file in files if file.suffix in readable]
    others = [
        f for f in files if f.suffix not in readable and f.suffix in OTHER_IMAGE_SUFFIXES | set(PLUGINS)
    ]
    notes.found += len(images) + len(others)
    for suffix, count in Counter(file.suffix for file in others).items():
        names = [file.path for file in others if file.suffix == suffix]
        why = f"{count} of {notes.found} files are {suffix}, which cannot be read: {advice(suffix)}"
        if not images:
            raise DataError(f"{root}: {why}")
        notes.leave_out(f"{suffix} files: {advice(suffix)}", names)
        notes.warn(f"{root}: {why}")
    if not images:
        raise DataError(_no_images(root, files))
    return images


def _no_images(root: Path, files: Sequence[File]) -> str:
    archives = [file.path for file in files if file.suffix in ARCHIVE_SUFFIXES]
    if archives:
        return f"{root}: archives ({len(archives)}) but no images: unpack them first, {unpack(root / archives[0])}"
    kinds = Counter(file.suffix or NO_SUFFIX for file in files).most_common(5)
    found = f"; it has {', '.join(f'{count} {suffix}' for suffix, count in kinds)}" if kinds else ""
    return f"{root}: no images (such as .png, .jpg or .webp) and no parquet or arrow files in it{found}"


def unpack(archive: Path) -> str:
    """Return the command that unpacks an archive, as part of an error."""
    target = archive.with_name(archive.name.split(".")[0] or "unpacked")
    if archive.suffix.lower() == ".zip":
        return f"for example `unzip '{archive}' -d '{target}'`"
    if archive.suffix.lower() in (".7z", ".rar"):
        return f"for example `7z x '{archive}' -o'{target}'`"
    return f"for example `mkdir '{target}' && tar -xf '{archive}' -C '{target}'`"


def _shards(files: Sequence[File], images: Sequence[str]) -> dict[str, str]:
    """Files in which img2dataset describes a shard -> the folder of the shard."""
    folders = {path.rpartition("/")[0] for path in images}
    matches = {file.path: _SHARD.fullmatch(file.path) for file in files}
    return {path: match[1] for path, match in matches.items() if match and match[1] in folders}


def _metadata_candidates(
    root: Path, files: Sequence[File], sidecars: Sidecars, shards: dict[str, str]
) -> list[File]:
    """Files that may name images. The tables of img2dataset only if no captions lie next to the images."""
    known = sidecars.files | {path for path in shards if sidecars.captions or path.endswith(".json")}
    # A sample submission of Kaggle has placeholders for labels.
    others = [file for file in files if file.path not in known and "submission" not in file.name.lower()]
    tables = [file for file in others if file.suffix == ".txt" and names_files(root / file.path)]
    return [file for file in others if file.suffix in METADATA_SUFFIXES] + tables


def note_other_files(root: Path, files: Sequence[File], used: set[str], notes: Notes) -> None:
    """Note the files that are neither images nor in `used`."""
    images = image_suffixes() | OTHER_IMAGE_SUFFIXES | set(PLUGINS)
    others = [file for file in files if file.suffix not in images and file.path not in used]
    notes.other_files = dict(Counter(file.suffix or NO_SUFFIX for file in others))
    if archives := [file.path for file in others if file.suffix in ARCHIVE_SUFFIXES]:
        notes.warn(f"{root}: archives that are not read: {len(archives)} ({some(archives)})")
    if notes.other_files:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in notes.other_files.items())
        notes.info(f"{root}: other files are not read: {kinds}")


def _without_conditioning_images(
    root: Path, images: list[str], metadata: Metadata, notes: Notes
) -> list[str]:
    """Leave out conditioning images without a row, and images without a row if the others have conditioning images."""
    others = metadata.other_images()
    if not others:
        return images
    alone = [path for path in images if path not in metadata.rows]
    conditioning = [path for path in alone if path in others]
    rest = [path for path in alone if path not in others]
    notes.leave_out("conditioning images of other images", conditioning)
    notes.leave_out("no row in the metadata, so no conditioning image", rest)
    if rest:
        notes.warn(
            f"{root}: {len(rest)} of {len(images)} images have no row in the metadata, so no conditioning image, and "
            f"are left out: {some(rest)}"
        )
    return [path for path in images if path in metadata.rows]


def _splits(root: Path, images: list[str], metadata: Metadata, notes: Notes) -> dict[str, list[str]]:
    """Group the images by split: by their folders, else by the metadata; else all are 'train'."""
    level = split_level(map(parts_of, images))
    if level is not None:
        return _folder_splits(root, images, level, notes)
    words = {word for path in images for word in metadata.splits.get(path, ())}
    if len(words) < 2 or not any(map(is_train, words)):
        return {"train": images}
    notes.info(f"{root}: the metadata gives the splits {', '.join(sorted(words))}")
    groups: dict[str, list[str]] = {}
    train = next(filter(is_train, sorted(words)))
    for path in images:
        found = metadata.splits.get(path, {train})
        if len(found) > 1:
            raise DataError(
                f"{root / path}: the metadata puts it in several splits ({', '.join(sorted(found))})"
            )
        groups.setdefault(next(iter(found)), []).append(path)
    return groups


def _folder_splits(root: Path, images: list[str], level: int, notes: Notes) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for path in images:
        parts = parts_of(path)
        groups.setdefault(parts[level] if level < len(parts) else "", []).append(path)
    splits = {name: members for name, members in groups.items() if split_word(name)}
    others = [path for name, members in groups.items() if name not in splits for path in members]
    if others:
        notes.leave_out(f"outside the split folders {', '.join(splits)}", others)
        notes.warn(
            f"{root}: {len(others)} images outside the split folders {', '.join(splits)} are left out: {some(others)}"
        )
    return splits


def _captions(
    root: Path, images: Iterable[str], metadata: Metadata, sidecars: Sidecars, notes: Notes
) -> dict[str, list[str]]:
    """Path -> captions next to the image, where the metadata has none."""

    def has_text(path: str) -> bool:
        rows = metadata.rows.get(path, [])
        return any(value for row in rows for key, value in row.items() if plain(key) in TEXT_NAMES)

    both = [path for path in images if path in sidecars.captions and has_text(path)]
    if both:
        notes.info(
            f"{root}: images with captions in the metadata, which are used, and in files next to them: {len(both)}"
        )
        notes.alternatives.append("captions from the files next to the images")
    return {path: lines for path, lines in sidecars.captions.items() if path not in set(both)}


def _rows(images: Iterable[str], metadata: Metadata, captions: dict[str, list[str]]) -> list[ImageRow]:
    return [
        ImageRow(path, {**values, **({"text": caption} if caption else {})})
        for path in images
        for values in metadata.rows.get(path, [{}])
        for caption in captions.get(path, [None])
    ]


def _labels(
    root: Path,
    splits: dict[str, list[str]],
    metadata: Metadata,
    sidecars: Sidecars,
    shards: dict[str, str],
    notes: Notes,
) -> dict[str, str]:
    """Path -> class: from .cls files, else from the folders. {} if the metadata has labels."""
    labels = sidecars.labels or folder_labels(root, splits, set(shards.values()), notes)
    columns = {key for rows in metadata.rows.values() for row in rows for key in row if row[key] is not None}
    column = next((key for key in columns if plain(key) in LABEL_NAMES), None)
    if column is None:
        if len(set(labels.values())) > 1:
            layout = "labels in .cls files" if sidecars.labels else "class folders"
            notes.read_as(layout)
            notes.info(f"{root}: {layout}: {some(in_order(labels.values()), 5)}")
        return labels
    if len(set(labels.values())) > 1:
        notes.info(
            f"{root}: labels are read from the column '{column}' of the metadata, not from the folders"
        )
        notes.alternatives.append("labels from the folders")
    return {}


def _note_images_without_row(root: Path, images: list[str], metadata: Metadata, notes: Notes) -> None:
    if metadata.files and (alone := [path for path in images if path not in metadata.rows]):
        notes.warn(
            f"{root}: {len(alone)} of {len(images)} images have no row in {some(metadata.files)}: they are used "
            f"without its labels and captions; the first is {alone[0]}"
        )
