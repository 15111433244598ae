"""Compare the samples of two models blind: each row shows both for one class, in random order.

    python benchmarks/blind.py MODEL_A MODEL_B OUT.png [--side 64]

Writes OUT.png and OUT.json. Look at the picture, note for each row whether the left or the right half is better, and
only then read which model was where in OUT.json. Each half has samples with the model's own settings and the same seed;
nothing is selected.
"""

from __future__ import annotations

import argparse
import json
import secrets
from pathlib import Path

from PIL import Image

from imgtf import Pipeline

ROWS, COLUMNS, GAP = 10, 5, 4


def halves(folder: Path) -> list[list[Image.Image]]:
    """Samples of a model in `ROWS` rows, each of one class where it has classes."""
    pipeline = Pipeline.from_pretrained(folder)
    classes = pipeline.prior.config.classes
    labels = [row % classes for row in range(ROWS) for _ in range(COLUMNS)] if classes else None
    samples = pipeline.sample(ROWS * COLUMNS, labels, seed=0)
    return [samples[start : start + COLUMNS] for start in range(0, len(samples), COLUMNS)]


def page(rows: list[list[list[Image.Image]]], side: int) -> Image.Image:
    """The two halves of each row beside one another, with a wide gap between them."""
    step = side + GAP
    width = 2 * COLUMNS * step + 4 * GAP
    found = Image.new("RGB", (width, len(rows) * step), "white")
    for y, row in enumerate(rows):
        for half, images in enumerate(row):
            for x, image in enumerate(images):
                left = (half * COLUMNS + x) * step + half * 4 * GAP
                shown = image.convert("RGB").resize((side, side), Image.Resampling.NEAREST)
                found.paste(shown, (left, y * step))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("models", type=Path, nargs=2)
    parser.add_argument("out", type=Path)
    parser.add_argument("--side", type=int, default=64, help="pixels of each image in the picture")
    args = parser.parse_args()
    samples = [halves(folder) for folder in args.models]
    first = [secrets.randbelow(2) for _ in range(ROWS)]
    rows = [[samples[left][row], samples[1 - left][row]] for row, left in enumerate(first)]
    page(rows, args.side).save(args.out, optimize=True)
    key = [{"left": str(args.models[left]), "right": str(args.models[1 - left])} for left in first]
    args.out.with_suffix(".json").write_text(json.dumps(key, indent=1) + "\n")


if __name__ == "__main__":
    main()
