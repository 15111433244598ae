"""Images with the same content: the same file, the same bytes, or the same pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np

from ..runtime.progress import Bar
from .cells import size_of
from .columns import TableRows
from .decode import BadImage
from .findings import Duplicates, Notes, some

MAX_BYTES = 2 * 2**30
"""Encoded images are compared if those of equal length have at most this many bytes together."""
MAX_DECODED_IMAGES = 2000
MAX_DECODED_PIXELS = 50_000_000
"""Pixels are compared if there are at most this many images and pixels."""
MAX_GROUPS = 100


class Contents:
    """The images of one or more splits, and which of them have the same content."""

    def __init__(self, splits: list[TableRows], where: str, notes: Notes) -> None:
        self._splits, self._starts = splits, np.cumsum([0, *map(len, splits)])
        self._paths = [path for rows in splits for path in rows.paths()]
        self._sizes = np.concatenate([rows.byte_counts() for rows in splits])
        first: dict[Hashable, int] = {}
        same = (first.setdefault(i if path is None else path, i) for i, path in enumerate(self._paths))
        self.files = np.fromiter(same, np.int64, len(self._paths))
        """(N,) per row of all splits, the first row with the same file."""
        self._parent = {i: i for i in first.values()}
        self.pixels_compared = False
        self._compare(where, notes)

    def groups(self) -> np.ndarray:
        """Return (N,) int64: a number per content from 0, for the rows of all splits."""
        roots = np.array([self._root(int(i)) for i in self.files], np.int64)
        _, numbers = np.unique(roots, return_inverse=True)
        return numbers.reshape(-1).astype(np.int64)

    def summary(self, held_out: int) -> Duplicates:
        """Return what is repeated. `held_out`: first row of the held-out split, if it is given."""
        members: dict[int, list[int]] = {}
        for i in self._parent:
            members.setdefault(self._root(i), []).append(i)
        same = [group for group in members.values() if len(group) > 1]
        names = tuple(tuple(map(self._name, group)) for group in same[:MAX_GROUPS])
        across = sum(sum(i >= held_out for i in group) for group in same if any(i < held_out for i in group))
        return Duplicates(sum(map(len, same)) - len(same), names, across, self.pixels_compared)

    def _at(self, i: int) -> tuple[TableRows, int]:
        split = int(np.searchsorted(self._starts, i, side="right")) - 1
        return self._splits[split], i - int(self._starts[split])

    def _name(self, i: int) -> str:
        rows, row = self._at(i)
        return rows.where(row)

    def _root(self, i: int) -> int:
        while self._parent[i] != i:
            i = self._parent[i]
        return i

    def _join(self, images: list[int], key: Callable[[int], Hashable]) -> None:
        """Unite images with the same key. None is never the same."""
        first: dict[Hashable, int] = {}
        with Bar("duplicates", len(images), "image") as bar:
            for i in images:
                content = key(i)
                if content is not None:
                    self._parent[self._root(i)] = self._root(first.setdefault(content, i))
                bar.update()

    def _compare(self, where: str, notes: Notes) -> None:
        sizes = {i: self._size(i) for i in self._parent}
        equal = _with_company(sizes)
        if sum(sizes[i] for i in equal) > MAX_BYTES:
            notes.warn(f"{where}: more than 2 GiB of images of equal length: copies are not searched")
            return
        self._join(equal, self._digest)
        images = [i for i in self._parent if self._parent[i] == i]
        if len(images) <= MAX_DECODED_IMAGES:
            self._compare_pixels(images)

    def _compare_pixels(self, images: list[int]) -> None:
        shapes = {i: self._shape(i) for i in images}
        equal = _with_company(shapes)
        if sum(shapes[i][0] * shapes[i][1] for i in equal) <= MAX_DECODED_PIXELS:
            self._join(equal, self._pixels)
            self.pixels_compared = True

    def _size(self, i: int) -> int:
        path = self._paths[i]
        try:
            return int(self._sizes[i]) if path is None else size_of(path)
        except OSError:
            return 0

    def _digest(self, i: int) -> bytes | None:
        rows, row = self._at(i)
        try:
            return hashlib.blake2b(rows.encoded(row), digest_size=16).digest()
        except OSError:
            return None

    def _shape(self, i: int) -> tuple[int, int]:
        rows, row = self._at(i)
        try:
            return rows.header(row).size
        except BadImage:
            return (0, 0)

    def _pixels(self, i: int) -> Hashable:
        rows, row = self._at(i)
        try:
            image = rows.image(row)
        except BadImage:
            return None
        if image.mode in ("1", "L", "LA", "P", "PA", "RGB", "RGBA"):
            image = image.convert("RGBA")
        return image.mode, image.size, hashlib.blake2b(image.tobytes(), digest_size=16).digest()


def _with_company(values: dict[int, Any]) -> list[int]:
    """The images whose value, length or shape, other images have too; 0 and (0, 0) are broken images."""
    counts: dict[Any, int] = {}
    for value in values.values():
        counts[value] = counts.get(value, 0) + 1
    return [i for i, value in values.items() if counts[value] > 1 and value not in (0, (0, 0))]


def note_duplicates(found: Duplicates, given_splits: bool, where: str, notes: Notes) -> None:
    """Log how many images repeat others, and on which side of the split they are."""
    if not found.images:
        return
    first = some(found.groups[0])
    side = "" if given_splits else "; they stay on one side of the held-out split"
    notes.warn(f"{where}: images that repeat others: {found.images}, for example {first}{side}")
    if given_splits and found.across_splits:
        notes.warn(
            f"{where}: held-out images that are also training images: {found.across_splits}; "
            f"held-out metrics are too good"
        )
