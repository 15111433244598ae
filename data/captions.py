"""Captions and labels in files next to the images: 1.png with 1.txt, 1.caption, 1.json or 1.cls."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .files import File
from .findings import Notes, some
from .labels import class_name
from .metadata_files import read_text

TEXT_NAMES = (
    "text", "caption", "captions", "prompt", "description", "texts", "prompts", "sentence", "sentences",
    "descriptions", "comment",
)  # fmt: skip
"""Columns and keys that hold captions, in order of preference."""
SUFFIXES = (".txt", ".caption", ".json", ".cls")
_BOX = re.compile(r"\d+( -?\d*\.\d+){4,}")
"""One line of the box files of YOLO."""


@dataclass
class Sidecars:
    """Captions and labels from the files next to the images."""

    captions: dict[str, list[str]] = field(default_factory=dict)
    """Path of an image -> its captions."""
    labels: dict[str, str] = field(default_factory=dict)
    """Path of an image -> the class in its .cls file."""
    files: set[str] = field(default_factory=set)
    """All files that belong to an image, also without a caption."""


def read_sidecars(root: Path, files: Sequence[File], images: Iterable[str], notes: Notes) -> Sidecars:
    """Return the captions next to the images. Each line of a .txt file that is not empty is a caption.

    Raises:
        DataError: a file is not UTF-8 or UTF-16 text.
    """
    found = _pairs(files, list(images))
    sidecars = Sidecars(files={path for paths in found.values() for path in paths.values()})
    texts = _texts(root, found)
    if boxes := {path for path, lines in texts.items() if _is_boxes(lines)}:
        notes.warn(
            f"{root}: .txt files with boxes instead of captions, which are not read: {len(boxes)} "
            f"({some(sorted(boxes))})"
        )
    sidecars.captions = {path: lines for path, lines in texts.items() if lines and path not in boxes}
    for path, paths in found.items():
        if path not in texts and ".json" in paths and (caption := _json_caption(root / paths[".json"])):
            sidecars.captions[path] = [caption]
    sidecars.labels = _labels(root, found)
    _say(root, sidecars, found, notes)
    return sidecars


def _labels(root: Path, found: dict[str, dict[str, str]]) -> dict[str, str]:
    """Image -> the class in its .cls file, without files that mean "no label"."""
    texts = {path: read_text(root / paths[".cls"]) for path, paths in found.items() if ".cls" in paths}
    names = {path: class_name(text) for path, text in texts.items()}
    return {path: name for path, name in names.items() if name is not None}


def _say(root: Path, sidecars: Sidecars, found: dict[str, dict[str, str]], notes: Notes) -> None:
    if not sidecars.captions:
        return
    without = [path for path in found if path not in sidecars.captions]
    notes.info(f"{root}: images with captions in .txt or .json files next to them: {len(sidecars.captions)}")
    if several := [path for path, lines in sidecars.captions.items() if len(lines) > 1]:
        notes.info(f"{root}: caption files with several lines, each a caption of its image: {len(several)}")
    if without:
        notes.warn(f"{root}: images with an empty caption file: {len(without)} ({some(without)})")


def _pairs(files: Sequence[File], images: list[str]) -> dict[str, dict[str, str]]:
    """Image -> suffix -> file of the same name, in the same folder or else with a name unique in the folder."""
    wanted = {file.path: file for file in files if file.suffix in SUFFIXES}
    by_stem: dict[str, dict[str, str]] = {}
    for file in wanted.values():
        by_stem.setdefault(file.stem, {})[file.suffix] = file.path
    stems = {path: os.path.splitext(path)[0] for path in images}
    pairs = {path: by_stem.get(stem) or by_stem.get(path) for path, stem in stems.items()}
    if not any(pairs.values()):
        pairs = _pairs_across_folders(list(wanted.values()), stems)
    return {path: found for path, found in pairs.items() if found}


def _pairs_across_folders(files: list[File], stems: dict[str, str]) -> dict[str, dict[str, str] | None]:
    """Pairs such as images/1.png with texts/1.txt: names that are unique among images and among texts."""
    texts: dict[str, list[str]] = {}
    for file in files:
        if file.suffix == ".txt":
            texts.setdefault(file.stem.rpartition("/")[2], []).append(file.path)
    names = [stem.rpartition("/")[2] for stem in stems.values()]
    if len(set(names)) < len(names) or any(len(paths) > 1 for paths in texts.values()):
        return {}
    return {
        path: {".txt": texts[name][0]} if name in texts else None
        for path, name in zip(stems, names, strict=True)
    }


def _texts(root: Path, found: dict[str, dict[str, str]]) -> dict[str, list[str]]:
    """Image -> the lines of its .txt or .caption file that are not empty."""
    paths = {path: kinds.get(".txt") or kinds.get(".caption") for path, kinds in found.items()}
    return {
        path: [line.strip() for line in read_text(root / text).split("\n") if line.strip()]
        for path, text in paths.items()
        if text
    }


def _is_boxes(lines: list[str]) -> bool:
    return bool(lines) and all(map(_BOX.fullmatch, lines))


def _json_caption(path: Path) -> str | None:
    try:
        content: Any = json.loads(read_text(path))
    except (ValueError, RecursionError):
        return None
    values = [content.get(name) for name in TEXT_NAMES] if isinstance(content, dict) else []
    return next((value.strip() for value in values if isinstance(value, str) and value.strip()), None)
