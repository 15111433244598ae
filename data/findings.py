"""What was found in a data set: files, splits, labels, captions, duplicates, and how they were read."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

logger = logging.getLogger("imgtf")

STREAMED = "streamed"
"""How the layout of a stream begins."""


@dataclass(frozen=True)
class LeftOut:
    """Images that are not used, for one reason."""

    why: str
    count: int
    names: tuple[str, ...] = ()
    """Their files. () for rows of a table."""


@dataclass(frozen=True)
class SplitFindings:
    """One split in use."""

    name: str
    rows: int
    """One per image and caption: an image with five captions has five rows."""
    images: int
    """Different files; rows of a table count as images."""
    class_counts: tuple[int, ...] = ()
    """Rows of each class, in the order of `Findings.class_names`."""
    unlabelled: int = 0
    """Rows without a label. All rows if the data set has no labels."""
    captions: int = 0
    """Rows with a caption."""


@dataclass(frozen=True)
class Duplicates:
    """Images with the same content."""

    images: int = 0
    """Images that repeat an earlier one."""
    groups: tuple[tuple[str, ...], ...] = ()
    """Files or rows with the same content, at most 100 groups."""
    across_splits: int = 0
    """Images of a given held-out split that are also in the training split."""
    pixels_compared: bool = False
    """Whether decoded pixels were compared. Otherwise only the bytes of the files were."""


@dataclass(frozen=True)
class Findings:
    """What one data set contains, and how it was read. `found` = `used` + all `left_out`."""

    source: str
    """The data set as given with --data."""
    layout: str
    """How the data set was read, for example "class folders"."""
    found: int
    """Image files, also of formats that cannot be read; or rows of a table."""
    splits: tuple[SplitFindings, ...] = ()
    """The training split, then the held-out split (0 rows with --held-out 0)."""
    class_names: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    missing: tuple[str, ...] = ()
    """Rows of metadata whose image file does not exist: file, row and name."""
    other_files: dict[str, int] = field(default_factory=dict)
    """Files that are neither images nor read: suffix -> count."""
    duplicates: Duplicates = Duplicates()
    alternatives: tuple[str, ...] = ()
    """Other ways to read the data set, which were not taken."""
    notes: tuple[str, ...] = ()
    """Every line that was logged about the data set."""

    @property
    def used(self) -> int:
        """Images of the splits in use."""
        return sum(split.images for split in self.splits)


class Notes:
    """Collects log lines and counts about a data set. The lines are logged once, at the end."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, str]] = []
        self.layout = ""
        self.alternatives: list[str] = []
        self.left_out: list[LeftOut] = []
        self.missing: list[str] = []
        self.other_files: dict[str, int] = {}
        self.found = 0

    def info(self, line: str) -> None:
        """Add a line about how the data set was read."""
        self.lines.append((logging.INFO, line))

    def warn(self, line: str) -> None:
        """Add a line about images that are left out, unlabelled or changed."""
        self.lines.append((logging.WARNING, line))

    def read_as(self, layout: str, *alternatives: str) -> None:
        """Record the layout that was taken, and the others that were possible."""
        self.layout = layout
        self.alternatives += alternatives

    def leave_out(self, why: str, names: Iterable[str] = (), count: int | None = None) -> None:
        """Record images that are not used, if there are any."""
        names = tuple(names)
        count = len(names) if count is None else count
        if count:
            self.left_out.append(LeftOut(why, count, names))

    def log(self) -> None:
        """Log every line."""
        for level, line in self.lines:
            logger.log(level, "%s", line)


def some(names: Iterable[str], limit: int = 3) -> str:
    """Return the first names as one string: "a, b, c, ... (12)"."""
    names = list(names)
    return ", ".join(names[:limit]) + (f", ... ({len(names)})" if len(names) > limit else "")
