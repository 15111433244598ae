"""Training from Python: the settings of the command line as keyword arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..options import unknown_key
from ..training.loop import TrainingResult
from . import train, tune
from .decoder_settings import decoder_options, decoder_settings
from .files import run_file
from .settings import AUTO, PRIOR_CLASSES, TOKENIZER_CLASSES, Settings, collect, option_names


def train_tokenizer(
    model: str | Path = "model",
    *,
    data: str | Path = "digits",
    preset: str = "auto",
    resume: bool = False,
    resume_from: int | None = None,
    force: bool = False,
    **settings: Any,
) -> TrainingResult:
    """Train a tokenizer into `model/tokenizer`, as `imgtf tokenizer train` does.

    Args:
        data: folder of images, parquet or arrow file, Hub id, or "digits".
        preset: settings that are not given here, see tokenizer/presets.toml; "auto" picks by images, device and time.
        resume: go on from the last saved state of this run.
        resume_from: go on from the saved state of this step; later states are dropped.
        force: replace the tokenizer that is there.
        settings: fields of DataConfig, AugmentationConfig, TokenizerConfig, TokenizerRecipe and TrainingConfig, such
            as steps=500, image_size=64, lpips_weight=1.0.

    Returns:
        The held-out metrics of the weights that were kept, and their step.

    Raises:
        ConfigError: for an unknown setting or one out of range.
        DataError: for data that cannot be read.
        CheckpointError: when the folder already holds a tokenizer and neither `resume` nor `force` is set.
    """
    given = {"data": str(data), "preset": preset, **settings}
    resume = resume or resume_from is not None
    run = _settings("tokenizer", Path(model), given, resume)
    return train.train_tokenizer(Path(model), run, resume=resume, force=force, resume_from=resume_from)


def train_prior(
    model: str | Path = "model",
    *,
    data: str | Path | None = None,
    preset: str = "auto",
    resume: bool = False,
    resume_from: int | None = None,
    force: bool = False,
    **settings: Any,
) -> TrainingResult:
    """Train a prior into `model/prior` on the codes of `model/tokenizer`, as `imgtf prior train` does.

    Args:
        data: as for `train_tokenizer`; None takes the data that the tokenizer was trained on.
        preset: settings that are not given here, see prior/presets.toml; "auto" picks by images, device and time.
        resume: go on from the last saved state of this run.
        resume_from: go on from the saved state of this step; later states are dropped.
        force: replace the prior that is there.
        settings: fields of DataConfig, ConditionDataConfig, AugmentationConfig, CacheRecipe, PriorConfig, PriorRecipe,
            SamplingConfig and TrainingConfig, such as steps=2000, width=256, conditions=("text",).

    Returns and raises as `train_tokenizer`.
    """
    given = {"preset": preset, **settings} | ({"data": str(data)} if data is not None else {})
    resume = resume or resume_from is not None
    run = _settings("prior", Path(model), given, resume)
    return train.train_prior(Path(model), run, resume=resume, force=force, resume_from=resume_from)


def tune_decoder(
    model: str | Path = "model",
    *,
    data: str | Path | None = None,
    resume: bool = False,
    resume_from: int | None = None,
    force: bool = False,
    **settings: Any,
) -> TrainingResult:
    """Train the decoder of `model/tokenizer` further, as `imgtf tokenizer tune-decoder` does.

    Encoder and codebook are frozen: images keep their codes, and the prior stays valid.

    Args:
        data: as for `train_tokenizer`; None takes the data that the tokenizer was trained on.
        resume: go on from the last saved state of this run.
        resume_from: go on from the saved state of this step; later states are dropped.
        force: start another run from the present weights where there was one.
        settings: fields of DataConfig, AugmentationConfig, DecoderRecipe and TrainingConfig, such as steps=500,
            code_noise=0.2. The others are those of the tokenizer's run, for fewer and smaller steps.

    Returns:
        The held-out metrics of the weights that were kept, and their step; step 0 where none were better.

    Raises:
        ConfigError: for an unknown setting or one out of range.
        DataError: for data that cannot be read.
        CheckpointError: when the folder holds no tokenizer, or already such a run and neither `resume` nor `force` is
            set.
    """
    folder, known = Path(model), decoder_options()
    given = settings | ({"data": str(data)} if data is not None else {})
    for key in given.keys() - known:
        raise unknown_key("tune_decoder", key, known)
    resume = resume or resume_from is not None
    file = run_file(folder, "decoder")
    run = decoder_settings(folder, given, file if resume and file.exists() else None)
    return tune.tune_decoder(folder, run, resume=resume, force=force, resume_from=resume_from)


def _settings(stage: str, folder: Path, given: dict[str, Any], resume: bool) -> Settings:
    """The settings of a run. A resumed run takes those it was started with."""
    classes = TOKENIZER_CLASSES if stage == "tokenizer" else PRIOR_CLASSES
    known = {"preset", *(name for cls in classes for name in option_names(cls))}
    for key in given.keys() - known:
        raise unknown_key(f"train_{stage}", key, known)
    started = run_file(folder, stage)
    config = started if resume and started.exists() else None
    if config:  # the defaults of this function are not the user's settings
        given = {k: v for k, v in given.items() if k not in ("preset", "data") or v not in ("auto", "digits")}
    inherit = run_file(folder, "tokenizer") if stage == "prior" else None
    return collect(stage, classes, given, config, inherit, AUTO)
