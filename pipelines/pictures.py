"""Pictures of a model card: previews of training, copied next to the card."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from .figures import Figures, read_figures
from .png import write_png

PICTURES = {"prior": "images/samples.png", "tokenizer": "images/reconstructions.png"}
"""Stage -> its picture in the model folder."""
LARGEST = 1024
"""Pixels of the longer side."""


def copy_pictures(folder: Path) -> None:
    """Copy the preview of each stage's run. A picture stays where `training/` was deleted; others are removed."""
    for stage, picture in PICTURES.items():
        figures = read_figures(folder / stage)
        run = folder / "training" / (figures.run if figures and figures.run else stage)
        if figures and not run.exists():
            continue
        preview = _preview(run, figures)
        if preview is None:
            (folder / picture).unlink(missing_ok=True)
        else:
            _copy(preview, folder / picture)


def _preview(run: Path, figures: Figures | None) -> Path | None:
    """The preview that is nearest to the weights that were kept."""
    steps = {int(path.stem.removeprefix("step-")): path for path in run.glob("previews/step-*.png")}
    if not steps:
        return None
    best = figures.step if figures else max(steps)
    return steps[min(steps, key=lambda step: (abs(step - best), step))]


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(source) as opened:
        image = opened.convert("L" if opened.mode == "L" else "RGB")
    image.thumbnail((LARGEST, LARGEST))
    write_png(image, target)
