"""Parquet and arrow files, `save_to_disk` folders and the Hub -> tables by split, through `datasets`."""

from __future__ import annotations

import glob
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from .folder import SPLIT_NAMES, File, fingerprint, list_files, open_folder

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger("imgtf")

TABLE_SUFFIXES = (".parquet", ".arrow")
OTHER_SUFFIXES = (".csv", ".json", ".jsonl", ".zip", ".tar", ".gz", ".h5", ".npz", ".npy", ".txt")
SHARD = re.compile(r"(.+?)-\d{5}-of-\d{5}")  # train-00000-of-00001.parquet, the layout of the Hub


def open_tables(src: str) -> tuple[dict[str, Dataset], str]:
    """Return the splits of a data set by name, and a fingerprint that changes with its content.

    Raises:
        DataError: no such data set, no usable files in it, or the Hub does not provide it.
    """
    path = Path(src).expanduser()
    if path.is_file():
        return _open_file(path)
    if path.is_dir():
        return _open_directory(path)
    if looks_like_path(src):
        raise DataError(f"{src}: no such file or folder")
    return _open_hub(src)


def looks_like_path(src: str) -> bool:
    """Return whether a name cannot be a Hub id, which is one or two plain words."""
    suffix = Path(src).suffix.lower()
    return src.startswith((".", "/", "~")) or src.count("/") > 1 or "\\" in src or suffix in _SUFFIXES


_SUFFIXES = TABLE_SUFFIXES + OTHER_SUFFIXES


def _open_file(path: Path) -> tuple[dict[str, Dataset], str]:
    if path.suffix.lower() not in TABLE_SUFFIXES:
        raise DataError(
            f"{path}: not a data set; give a folder of images, or a .parquet or .arrow file or folder"
        )
    stat = path.stat()
    file = File(path.name, stat.st_size, stat.st_mtime_ns)
    return _load_files(path.parent, path.suffix.lower(), [file]), fingerprint([file])


def _open_directory(path: Path) -> tuple[dict[str, Dataset], str]:
    files = list_files(path)
    names = {file.path for file in files}
    if names & {"dataset_dict.json", "state.json"}:
        return _load_saved(path), fingerprint(files)
    for suffix in TABLE_SUFFIXES:
        chosen = [f for f in files if f.suffix == suffix and f.name != "metadata.parquet"]
        if chosen:
            return _load_files(path, suffix, chosen), fingerprint(chosen)
    return open_folder(path, files), fingerprint(files)


def _load_files(root: Path, suffix: str, files: list[File]) -> dict[str, Dataset]:
    from datasets import load_dataset

    # Explicit splits and escaped names, because `datasets` treats any file with `test` in its name as a test split,
    # and [ ] * in a name as patterns.
    splits: dict[str, list[str]] = {}
    for file in files:
        path = glob.escape(str((root / file.path).absolute()))
        splits.setdefault(_split_of(file) if len(files) > 1 else "train", []).append(path)
    with _quiet(f"{root}: the {suffix} files cannot be read"):
        return dict(load_dataset(suffix[1:], data_files=splits))


def _split_of(file: File) -> str:
    stem = file.name.rpartition(".")[0]
    if match := SHARD.fullmatch(stem):
        return re.sub(r"\W", "_", match[1])
    folders = file.path.split("/")[:-1]
    return next((name for name in (stem, *reversed(folders)) if name.lower() in SPLIT_NAMES), "train")


def _load_saved(path: Path) -> dict[str, Dataset]:
    from datasets import Dataset, load_from_disk

    with _quiet(f"{path}: the data set that save_to_disk wrote cannot be read"):
        saved = load_from_disk(str(path))
    return {"train": saved} if isinstance(saved, Dataset) else dict(saved)


def _open_hub(src: str) -> tuple[dict[str, Dataset], str]:
    from datasets import load_dataset

    name, _, config = src.partition(":")
    # Logged before the request: without a network huggingface_hub retries for about 25 s, which cannot be changed.
    logger.info("%s: no such file or folder; requesting a data set of this name from the Hub", src)
    with _quiet(f"{src}: no such file or folder, and the Hub does not provide it"):
        tables = dict(load_dataset(name, config or None))
    # `datasets` derives fingerprints from the revision and the files, so they are the same in every process.
    return tables, "-".join(table._fingerprint for table in tables.values())


@contextmanager
def _quiet(problem: str) -> Iterator[None]:
    """Silence progress bars and warnings of `datasets`; raise its errors as one line, `problem: reason`."""
    import datasets

    bars, verbosity = datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    hub = logging.getLogger("huggingface_hub")  # it logs every attempt
    level = hub.level
    hub.setLevel(logging.CRITICAL)
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # many types: OSError, ValueError, those of pyarrow and `datasets`
        raise DataError(f"{problem}: {reason(error)}") from error
    finally:
        hub.setLevel(level)
        datasets.logging.set_verbosity(verbosity)
        if not bars:
            datasets.enable_progress_bars()


def reason(error: BaseException) -> str:
    """Return the first line of the original error, which `datasets` wraps in a general one."""
    root: Any = error
    while type(root).__name__ == "DatasetGenerationError" and root.__cause__ is not None:
        root = root.__cause__
    lines = [line.strip() for line in str(root).splitlines() if line.strip()]
    return lines[0] if lines else type(root).__name__
