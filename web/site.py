"""What a folder can serve: both stages, a tokenizer alone, or only a training run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError
from ..options import size_text
from ..pipelines.conditioning_images import ImageLoader
from ..pipelines.conditions import describe_conditions
from ..pipelines.pipeline import Pipeline
from ..runtime.device import pick_device
from ..tokenizer.model import Tokenizer
from .curves import STAGES, log_of


@dataclass(frozen=True)
class Site:
    """A model folder, opened once for all visitors of the page."""

    folder: Path
    name: str
    """The model as the user named it, for commands that repeat a result."""
    tokenizer: Tokenizer | None = None
    pipeline: Pipeline | None = None
    why: str = ""
    """Why a stage is missing: one line."""

    @property
    def image_loader(self) -> ImageLoader | None:
        """The loader of conditioning images, where the prior reads some."""
        loaders = self.pipeline.loaders if self.pipeline else ()
        return next((own for own in loaders if isinstance(own, ImageLoader)), None)

    @property
    def enlarges(self) -> bool:
        """Whether the prior enlarges images; with other conditioning images it translates them."""
        return self.image_loader is not None and bool(self.image_loader.config.reduced_size)

    def describe(self) -> str:
        """Return the sizes of the model in one line."""
        if self.tokenizer is None:
            return "a training run"
        config = self.tokenizer.config
        (h, w), size = config.grid, size_text(config.image_size)
        parts = [f"{size} px", f"{h} x {w} codes of {config.codebook_size:,}"]
        if self.pipeline:
            prior = self.pipeline.prior
            parts += [
                f"{prior.config.objective} prior of {prior.parameter_count() / 1e6:.1f} M parameters",
                f"conditions: {describe_conditions(prior.config)}",
                f"{self.pipeline.precision} on {prior.device}",
            ]
        return " · ".join(parts)


def open_site(folder: Path, name: str = "", device: str = "auto", precision: str = "auto") -> Site:
    """Load what a folder holds: both stages, or a tokenizer, or only the log of a run.

    Raises:
        CheckpointError: the folder holds none of them, or the tokenizer is damaged.
        ConfigError: the device or the precision is not available.
    """
    name = name or str(folder)
    has = {stage: (folder / stage / "config.json").exists() for stage in STAGES}
    why = f"This folder has no prior yet: train one with `imgtf prior train --model {name}`."
    if all(has.values()):
        try:
            pipeline = Pipeline.from_pretrained(folder, device, precision=precision)
        except CheckpointError as error:
            why = f"The prior cannot be used: {error}."
        else:
            return Site(folder, name, pipeline.tokenizer, pipeline)
    if has["tokenizer"]:
        tokenizer = Tokenizer.from_pretrained(folder / "tokenizer", pick_device(device)).eval()
        return Site(folder, name, tokenizer, why=why)
    if any(log_of(folder, stage).exists() for stage in STAGES):
        return Site(folder, name, why="This folder holds no trained tokenizer yet, only a run.")
    raise CheckpointError(f"{folder}: holds neither a model nor a training run; is this a model folder?")
