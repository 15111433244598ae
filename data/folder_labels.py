"""Folders of images -> the class of each image."""

from __future__ import annotations

import unicodedata
from pathlib import Path

from .findings import Notes, some
from .labels import folder_classes, in_order
from .splits import Parts, is_train, split_level


def parts_of(path: str) -> Parts:
    """Return the folders above a file."""
    return tuple(path.split("/")[:-1])


def folder_labels(root: Path, splits: dict[str, list[str]], shards: set[str], notes: Notes) -> dict[str, str]:
    """Return path -> class, from the first level of folders in which the images of a split differ.

    Args:
        shards: folders that img2dataset wrote, which are not classes.
    """
    level = split_level(parts_of(path) for members in splits.values() for path in members)
    labels: dict[str, str] = {}
    for name in sorted(splits, key=lambda name: not is_train(name)):  # the training split decides the level
        images = [path for path in splits[name] if path.rpartition("/")[0] not in shards]
        folders = {path: _without(parts_of(path), level) for path in images}
        found, problem = folder_classes(folders, frozenset(labels.values()))
        if problem:
            notes.warn(f"{root}: {problem}")
        labels |= found
    if shards:
        notes.info(f"{root}: the folders {some(sorted(shards))} are shards of img2dataset, not classes")
    _note_deeper_folders(root, labels, level, notes)
    return _of_training_classes(root, splits, labels, notes)


def _of_training_classes(
    root: Path, splits: dict[str, list[str]], labels: dict[str, str], notes: Notes
) -> dict[str, str]:
    """The labels without classes that only held-out images have."""
    train = {labels[path] for name in splits if is_train(name) for path in splits[name] if path in labels}
    unknown = {path for path, name in labels.items() if train and name not in train}
    if unknown:
        notes.warn(
            f"{root}: held-out images of classes without training images: {len(unknown)} "
            f"({some(in_order(labels[path] for path in unknown))}); they count as unlabelled"
        )
    return {path: name for path, name in labels.items() if path not in unknown}


def _without(parts: Parts, level: int | None) -> Parts:
    return parts if level is None else parts[:level] + parts[level + 1 :]


def _note_deeper_folders(root: Path, labels: dict[str, str], level: int | None, notes: Notes) -> None:
    innermost = {path: _without(parts_of(path), level)[-1] for path in labels}
    below = [path for path, name in labels.items() if unicodedata.normalize("NFC", innermost[path]) != name]
    if below and len(set(labels.values())) > 1:
        names = in_order(labels.values())
        notes.info(
            f"{root}: the classes are the folders {some(names)}; folders below them, such as "
            f"'{below[0].rpartition('/')[0]}', are not classes of their own"
        )
        notes.alternatives.append("classes from the innermost folders")
