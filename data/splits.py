"""Training and held-out splits: by the names of folders and files, or rows held out at random."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

from ..errors import DataError
from .config import DataConfig

TRAIN_NAMES = ("train", "training")
HELD_OUT_NAMES = ("validation", "val", "valid", "dev", "test", "testing", "eval")
MAX_HELD_OUT = 5000  # more images only make evaluation slower
_WORDS = "|".join(sorted(TRAIN_NAMES + HELD_OUT_NAMES, key=len, reverse=True))
_NAME = re.compile(rf"({_WORDS})(?:[-_ ]?(?:set|images|imgs|data|split))?[-_ ]?(?:\d{{4}})?", re.IGNORECASE)
_IN_STEM = re.compile(rf"(?:^|[-_ .])({_WORDS})(?:\d{{4}})?(?=$|[-_ .])", re.IGNORECASE)

Parts = tuple[str, ...]


def split_word(name: str) -> str | None:
    """Return the word for a split in a name such as `train`, `Test`, `val2017` or `training_set`, else None."""
    match = _NAME.fullmatch(name)
    return match[1].lower() if match else None


def split_in_stem(stem: str) -> str | None:
    """Return the split that the name of a metadata file names, as in `train` or `captions_val2017`."""
    found = {word.lower() for word in _IN_STEM.findall(stem)}
    return found.pop() if len(found) == 1 else None


def is_train(name: str) -> bool:
    """Return whether a name is one of the training split."""
    return split_word(name) in TRAIN_NAMES


def split_level(folders: Iterable[Parts]) -> int | None:
    """Return the level of the folders that are splits, or None.

    These are splits: folders that all have names of splits; and a train and a held-out folder among other folders,
    unless images are distinguished by a folder above them. One split folder in each class folder counts too.
    """
    folders = set(folders)
    shared = True  # all images have the same folders above this level
    for level in range(max((len(parts) for parts in folders), default=0)):
        names = {parts[level] if level < len(parts) else "" for parts in folders}
        known = {name for name in names if split_word(name)}
        several = any(map(is_train, known)) and not all(map(is_train, known))
        if (known == names and (shared or several)) or (shared and several):
            return level
        shared = shared and len(names - {""}) == 1
    return None


def choose_splits(names: Sequence[str], config: DataConfig) -> tuple[str, str | None]:
    """Return (training split, held-out split or None): as configured, else by their usual names."""
    known = ", ".join(names)
    for option, wanted in (("--split", config.split), ("--held-out-split", config.held_out_split)):
        if wanted is not None and wanted not in names:
            raise DataError(f"{config.data}: no split {wanted!r} ({option}); splits are {known}")
    train = config.split or _first(TRAIN_NAMES, names) or (names[0] if len(names) == 1 else None)
    if train is None:
        raise DataError(f"{config.data}: no split is named train; select one of {known} with --split")
    rest = [name for name in names if name != train]
    return train, config.held_out_split or _first(HELD_OUT_NAMES, rest)


def hold_out(count: int, fraction: float, groups: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Split rows 0 to count-1 at random into (kept, held out), each ascending, the same on every machine.

    At least one row is kept. At most 5,000 rows are held out, and at least one unless `fraction` is 0. Only where every
    group is larger than that, the smallest group is held out whole.

    Args:
        groups: (count,) group number of each row, from 0: the rows of a group stay on one side. One group only is
            split by row.
    """
    size = min(max(1, round(count * fraction)), MAX_HELD_OUT, count - 1) if fraction > 0 else 0
    if groups is None or len(groups) == 0 or groups.max() == 0:
        groups = np.arange(count)
    held_out = np.isin(groups, _held_out_groups(np.bincount(groups, minlength=0), size))
    return np.flatnonzero(~held_out).astype(np.int64), np.flatnonzero(held_out).astype(np.int64)


def _held_out_groups(sizes: np.ndarray, size: int) -> list[int]:
    """Random groups of at most `size` rows together; the smallest group if all are larger."""
    chosen, total = [], 0
    # NumPy guarantees that this generator never changes.
    for group in np.random.RandomState(0).permutation(len(sizes)).tolist() if size else []:
        if total + sizes[group] <= size:
            chosen.append(group)
            total += int(sizes[group])
    return chosen or ([int(np.argmin(sizes))] if size else [])


def _first(wanted: Sequence[str], names: Sequence[str]) -> str | None:
    return next((name for want in wanted for name in names if split_word(name) == want), None)
