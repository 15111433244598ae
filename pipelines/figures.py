"""What a training run reached on held-out images, as `figures.json` next to its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

from ..data.codes import CodesDataset
from ..data.config import DIGITS
from ..data.images import ImageDataset
from ..errors import CheckpointError
from ..pretrained import read_json, write_text
from ..training.loop import TrainingResult
from .files import run_file, stage_of
from .local_paths import is_local, public_name
from .settings import read_toml

FIGURES_FILE = "figures.json"
PACKAGES = ("imgtf", "torch", "accelerate", "vector-quantize-pytorch", "datasets")


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that training depends on."""
    return {name: version(name) for name in PACKAGES}


@dataclass(frozen=True)
class Figures:
    """The held-out metrics of the weights that were kept, and what they were measured on."""

    data: str
    """Id of the data set on the Hub, or the name of its folder."""
    on_hub: bool
    split: str
    images: int
    """Held-out images that were measured; 0 without any."""
    step: int
    """Of the weights that were kept."""
    steps: int
    """Of the whole run."""
    metrics: Mapping[str, float]
    versions: Mapping[str, str] = field(default_factory=package_versions)
    run: str = ""
    """decoder for the run that tuned the decoder; "" for that of the stage."""

    def save(self, folder: Path) -> None:
        """Write the file into the folder of a stage."""
        write_text(folder / FIGURES_FILE, json.dumps(asdict(self), indent=2) + "\n")


def save_figures(
    folder: Path, run: str, result: TrainingResult, held_out: ImageDataset | CodesDataset | None, most: int
) -> None:
    """Write the figures of a run in a model folder that has just ended, next to its weights and settings.

    Args:
        held_out: on which it was evaluated, on the first `most` of them.
    """
    data = str(read_toml(run_file(folder, run)).get("data", ""))
    images = min(len(held_out) if held_out else 0, most)
    split = (
        held_out.source.split
        if isinstance(held_out, ImageDataset)
        else held_out.info.split
        if held_out
        else ""
    )
    found = Figures(
        data=public_name(data), on_hub=data != DIGITS and not is_local(data), split=split, images=images,
        step=result.best_step, steps=result.steps, metrics=dict(result.metrics),
        run="" if run == stage_of(run) else run,
    )  # fmt: skip
    found.save(folder / stage_of(run))


def read_figures(folder: Path) -> Figures | None:
    """Return the figures in the folder of a stage, or None where there are none.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = folder / FIGURES_FILE
    if not path.exists():
        return None
    try:
        return Figures(**read_json(path))
    except TypeError as error:
        raise CheckpointError(f"{path}: {error}; delete the file") from error
