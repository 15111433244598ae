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
from ..runtime.hub import cached_if_unreachable, datasets_cache
from .files import ARCHIVE_SUFFIXES, File, fingerprint, image_suffixes, list_files
from .findings import Notes
from .folder import images_of, note_other_files, open_folder, unpack
from .locations import is_pattern, is_url, local_files, local_path, open_file
from .metadata_files import SUFFIXES as METADATA_SUFFIXES
from .mirror import mirror
from .shards import open_shards
from .splits import split_word
from .tar import NotSamples

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger("imgtf")

TABLE_SUFFIXES = (".parquet", ".arrow")
TAR = ".tar"
OTHER_SUFFIXES = (".csv", ".json", ".jsonl", ".zip", ".tar", ".gz", ".h5", ".npz", ".npy", ".txt")
SHARD = re.compile(r"(.+?)-\d{5}-of-\d{5}")  # train-00000-of-00001.parquet, the layout of the Hub


def open_tables(src: str, notes: Notes) -> tuple[dict[str, Dataset], str]:
    """Return the splits of a data set by name, and a fingerprint that changes with its content.

    `notes` gets the layout that was taken, the images found, and those left out.

    Raises:
        DataError: no such data set, no usable files in it, or the Hub does not provide it.
    """
    if not src.strip():
        raise DataError("the name of the data set is empty: name a folder, a file or a data set of the Hub")
    src = local_path(src)
    if is_url(src) or is_pattern(src):
        root, files = mirror(src) if is_url(src) else local_files(src)
        return _open_files(root, files, notes)
    path = Path(src).expanduser()
    if path.is_file():
        return _counted(_open_file(path, notes), notes)
    if path.is_dir():
        return _open_directory(path, list_files(path), notes)
    if looks_like_path(src):
        raise DataError(f"{src}: no such file or folder")
    return _counted(_open_hub(src), notes)


def _open_files(root: Path, files: list[File], notes: Notes) -> tuple[dict[str, Dataset], str]:
    """Open listed files of a folder. One table or archive is opened like a file that the user names."""
    only = files[0] if len(files) == 1 else None
    if only and only.suffix in (*TABLE_SUFFIXES, *OTHER_SUFFIXES):
        opened = _open_file(root / only.path, notes)[0], fingerprint(files)
        return _counted(opened, notes)
    return _open_directory(root, files, notes)


def _counted(opened: tuple[dict[str, Dataset], str], notes: Notes) -> tuple[dict[str, Dataset], str]:
    """Count the rows of tables as the images found."""
    notes.found += sum(map(len, opened[0].values()))
    notes.read_as(notes.layout or "table")
    return opened


def looks_like_path(src: str) -> bool:
    """Return whether a name cannot be a Hub id, which is one or two plain words."""
    suffix = Path(src).suffix.lower()
    return src.startswith((".", "/", "~")) or src.count("/") > 1 or "\\" in src or suffix in _SUFFIXES


_SUFFIXES = TABLE_SUFFIXES + OTHER_SUFFIXES


def _open_file(path: Path, notes: Notes) -> tuple[dict[str, Dataset], str]:
    suffix = path.suffix.lower()
    if suffix == TAR:
        return _open_tar(path.parent, [_described(path)], notes)
    if suffix in ARCHIVE_SUFFIXES:
        raise DataError(f"{path}: archives are not read: unpack it first, {unpack(path)}")
    if suffix in METADATA_SUFFIXES and suffix not in TABLE_SUFFIXES:
        raise DataError(f"{path}: metadata of images; give the folder of the images, with this file in it")
    if suffix not in TABLE_SUFFIXES:
        raise DataError(
            f"{path}: not a data set; give a folder of images, or a .parquet or .arrow file or folder"
        )
    file = _described(path)
    return _load_files(path.parent, suffix, [file]), fingerprint([file])


def _described(path: Path) -> File:
    stat = path.stat()
    return File(path.name, stat.st_size, stat.st_mtime_ns)


def _open_tar(root: Path, files: list[File], notes: Notes) -> tuple[dict[str, Dataset], str]:
    try:
        return open_shards(root, files, notes), fingerprint(files)
    except NotSamples as error:
        raise DataError(f"{error}: unpack it first, {unpack(root / files[0].path)}") from error


def _open_directory(path: Path, files: list[File], notes: Notes) -> tuple[dict[str, Dataset], str]:
    if {file.path for file in files} & {"dataset_dict.json", "state.json"}:
        return _counted((_load_saved(path), fingerprint(files)), notes)
    for suffix in TABLE_SUFFIXES:
        if chosen := _tables_to_read(path, suffix, files, notes):
            note_other_files(path, files, {file.path for file in chosen}, notes)
            return _counted((_load_files(path, suffix, chosen), fingerprint(chosen)), notes)
    if shards := _shards_to_read(files):
        note_other_files(path, files, {file.path for file in shards}, notes)
        return _counted(_open_tar(path, shards, notes), notes)
    notes.read_as("image files")
    return open_folder(path, files, notes), fingerprint(files)


def _tables_to_read(path: Path, suffix: str, files: list[File], notes: Notes) -> list[File]:
    """The tables of a folder; [] if it is rather a folder of image files, because it has more of these."""
    tables = [file for file in files if file.suffix == suffix and file.name != "metadata.parquet"]
    suffixes = image_suffixes()
    images = [file.path for file in files if file.suffix in suffixes]
    if not images and not any(file.suffix in ARCHIVE_SUFFIXES for file in files):
        return tables
    tables = [file for file in tables if has_images(str(path / file.path))]
    rows = sum(_row_count(path / file.path) for file in tables)
    if not tables or not images:
        return tables
    kinds = f"{rows} rows in {len(tables)} {suffix} files", f"{len(images)} image files"
    read, other = kinds if rows > len(images) else kinds[::-1]
    notes.warn(f"{path}: {read} are read; {other} in the same folder are left out")
    notes.alternatives.append(other)
    if rows > len(images):
        notes.leave_out(f"image files next to {suffix} files", images_of(path, files, notes))
        return tables
    notes.found += rows
    notes.leave_out(f"rows of {suffix} files next to image files", count=rows)
    return []


def _shards_to_read(files: list[File]) -> list[File]:
    """The tar files of a folder without image files."""
    suffixes = image_suffixes()
    return [] if any(f.suffix in suffixes for f in files) else [f for f in files if f.suffix == TAR]


def has_images(path: str) -> bool:
    """Return whether a table, local or behind a URL, has a column of encoded images."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.lower().endswith(".parquet"):
        return True
    try:
        with open_file(path) as file:
            types = pq.read_schema(file).types
    except (pa.ArrowException, OSError):  # reported where it is read as metadata
        return False
    return any(
        pa.types.is_binary(t)
        or pa.types.is_large_binary(t)
        or (pa.types.is_struct(t) and t.get_field_index("bytes") >= 0)
        for t in types
    )


def _row_count(path: Path) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if path.suffix.lower() == ".parquet":
            return pq.read_metadata(path).num_rows
        with pa.memory_map(str(path)) as source:
            return sum(batch.num_rows for batch in pa.ipc.open_stream(source))
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path}: cannot be read as a table ({reason(error)}); repair or remove it"
        ) from error


def _load_files(root: Path, suffix: str, files: list[File]) -> dict[str, Dataset]:
    from datasets import load_dataset

    # Explicit splits and escaped names, because `datasets` treats any file with `test` in its name as a test split,
    # and [ ] * in a name as patterns.
    splits: dict[str, list[str]] = {}
    for file in files:
        path = glob.escape(str((root / file.path).absolute()))
        splits.setdefault(split_of(file) if len(files) > 1 else "train", []).append(path)
    with _quiet(f"{root}: the {suffix} files cannot be read"):
        # One by one, because a held-out split may lack columns.
        return {
            name: load_dataset(suffix[1:], data_files={name: paths}, split=name, cache_dir=datasets_cache())
            for name, paths in splits.items()
        }


def split_of(file: File) -> str:
    """Return the split of a table, from its name or its folders."""
    stem = file.name.rpartition(".")[0]
    if match := SHARD.fullmatch(stem):
        return re.sub(r"\W", "_", match[1])
    folders = file.path.split("/")[:-1]
    return next((name for name in (stem, *reversed(folders)) if split_word(name)), "train")


def _load_saved(path: Path) -> dict[str, Dataset]:
    from datasets import Dataset, load_from_disk

    with _quiet(f"{path}: the data set that save_to_disk wrote cannot be read"):
        saved = load_from_disk(str(path))
    return {"train": saved} if isinstance(saved, Dataset) else dict(saved)


def _open_hub(src: str) -> tuple[dict[str, Dataset], str]:
    from datasets import load_dataset

    name, _, config = src.partition(":")
    logger.info("%s: no such file or folder; requesting a data set of this name from the Hub", src)
    with cached_if_unreachable() as reason_offline:
        problem = "the Hub does not provide it"
        if reason_offline:
            problem = f"not in the Hub's cache; the Hub cannot be reached ({reason_offline})"
        with _quiet(f"{src}: no such file or folder, and {problem}", known=bool(reason_offline)):
            tables = dict(load_dataset(name, config or None, cache_dir=datasets_cache()))
    # `datasets` derives fingerprints from the revision and the files, so they are the same in every process.
    return tables, "-".join(table._fingerprint for table in tables.values())


def hub_files(src: str) -> dict[str, list[str]]:
    """Return the files of a data set on the Hub by split, as URLs with the revision. Nothing is downloaded.

    Raises:
        DataError: the Hub does not provide it.
    """
    from datasets import load_dataset_builder

    name, _, config = src.partition(":")
    logger.info("%s: no such file or folder; requesting a data set of this name from the Hub", src)
    with _quiet(f"{src}: no such file or folder, and the Hub does not provide it"):
        files = load_dataset_builder(name, config or None, cache_dir=datasets_cache()).config.data_files
    return {str(split): [str(path) for path in own] for split, own in (files or {}).items()}


@contextmanager
def _quiet(problem: str, known: bool = False) -> Iterator[None]:
    """Silence `datasets`; raise its errors as one line, `problem: reason`.

    Args:
        known: whether `problem` is the reason of an error of the connection.
    """
    import datasets

    bars, verbosity = datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(logging.CRITICAL)  # an error is raised as well
    hub = logging.getLogger("huggingface_hub")  # it logs every attempt
    level = hub.level
    hub.setLevel(logging.CRITICAL)
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # many types: OSError, ValueError, those of pyarrow and `datasets`
        own = known and isinstance(error, ConnectionError)
        raise DataError(problem if own else f"{problem}: {reason(error)}") from error
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
