"""Image files by their names as people write them: other case, no extension, backslashes, parts of the path."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Iterator


class Ambiguous(ValueError):
    """A name that fits several files."""

    def __init__(self, name: str, files: list[str]) -> None:
        super().__init__(f"{name!r} fits {len(files)} images: {', '.join(files[:3])}")


SPELLING = "in another spelling (case, accents, slashes)"
EXTENSION = "without their extension"
END = "by the end of their path"


class ImageIndex:
    """Finds the image that a name means."""

    def __init__(self, paths: Iterable[str]) -> None:
        """`paths`: relative to the root, with '/'."""
        self.paths = set(paths)
        self._keys: dict[str, list[str]] = {}
        self._stems: dict[str, list[str]] = {}
        self._names: dict[str, list[str]] = {}
        for path in sorted(self.paths):
            key = _key(path)
            stem = os.path.splitext(key)[0]
            self._keys.setdefault(key, []).append(path)
            self._stems.setdefault(stem, []).append(path)
            for name in {key.rpartition("/")[2], stem.rpartition("/")[2]}:
                self._names.setdefault(name, []).append(path)

    def find(self, folder: str, name: str) -> tuple[str | None, str]:
        """Return the image that a name means, relative to a folder, and how it was found ("" if exactly).

        A name of several files is not guessed, and a file in another folder is not taken for a missing one.

        Raises:
            Ambiguous: the name fits several files.
        """
        for how, files in self._candidates(folder, name):
            if len(files) > 1:
                raise Ambiguous(name, files)
            if files:
                return files[0], how
        return None, ""

    def _candidates(self, folder: str, name: str) -> Iterator[tuple[str, list[str]]]:
        for written in (name, name.replace("\\", "/")):
            path = _join(folder, written)
            if path in self.paths:
                yield "" if written == name else SPELLING, [path]
        key = _key(_join(folder, name.replace("\\", "/")))
        yield SPELLING, self._keys.get(key, [])
        yield EXTENSION, self._stems.get(key, [])
        yield END, self._by_end(folder, _key(_join("", name.replace("\\", "/"))))

    def _by_end(self, folder: str, name: str) -> list[str]:
        """Images whose whole path ends the name, or whose path ends with the name, below the folder."""
        known = self._names.get(name.rpartition("/")[2], [])
        below = folder + "/" if folder and any(p.startswith(folder + "/") for p in known) else ""
        return [path for path in known if _fits(path, name, below)]


def _fits(path: str, name: str, below: str) -> bool:
    key = "/" + _key(path)
    if ("/" + name).endswith((key, os.path.splitext(key)[0])):
        return True
    return path.startswith(below) and (
        key.endswith("/" + name) or os.path.splitext(key)[0].endswith("/" + name)
    )


def _join(folder: str, name: str) -> str:
    return os.path.normpath(os.path.join(folder, name)).replace(os.sep, "/")


def _key(path: str) -> str:
    return unicodedata.normalize("NFC", path).casefold()
