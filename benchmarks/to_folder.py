"""Writes a parquet image set as a plain folder of files with class sub-folders, as users have them.

python benchmarks/to_folder.py ../shared/data/imagenette224 imagenette
"""

from __future__ import annotations

import sys
from pathlib import Path

from datasets import Image, load_dataset


def main(source: str, folder: str) -> None:
    """One folder a split, one a class in it; the files' own bytes."""
    for split, table in load_dataset(source).items():
        names = table.features["label"].names if hasattr(table.features["label"], "names") else None
        for number, row in enumerate(table.cast_column("image", Image(decode=False))):
            name = names[row["label"]] if names else str(row["label"])
            data = row["image"]["bytes"]
            suffix = ".jpg" if data[:2] == b"\xff\xd8" else ".png"
            target = Path(folder) / str(split) / name / f"{number:05d}{suffix}"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)


if __name__ == "__main__":
    main(*sys.argv[1:3])
