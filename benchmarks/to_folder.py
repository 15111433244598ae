"""Write a parquet image data set as a folder of image files with a sub-folder per class.

    python benchmarks/to_folder.py DATA FOLDER

For measuring how fast plain image folders are read. Writes FOLDER/SPLIT/CLASS/NUMBER.jpg (or .png) with the original
bytes of each image.
"""

from __future__ import annotations

import sys
from pathlib import Path

from datasets import Image, load_dataset


def main(data: str, folder: str) -> None:
    for split, table in load_dataset(data).items():
        names = getattr(table.features["label"], "names", None)
        for number, row in enumerate(table.cast_column("image", Image(decode=False))):
            name = names[row["label"]] if names else str(row["label"])
            content = row["image"]["bytes"]
            suffix = ".jpg" if content[:2] == b"\xff\xd8" else ".png"
            target = Path(folder) / str(split) / name / f"{number:05d}{suffix}"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)


if __name__ == "__main__":
    main(*sys.argv[1:3])
