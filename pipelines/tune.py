"""Tuning the decoder of a trained tokenizer: the codes stay what they are, so prior and token caches stay valid."""

from __future__ import annotations

import logging
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import set_seed

from ..data.config import AugmentationConfig, DataConfig, worker_count
from ..data.images import ImageDataset
from ..data.order import check_batch
from ..data.source import open_source
from ..pretrained import WEIGHTS_FILE
from ..runtime.durable import link_or_copy
from ..tokenizer.config import TokenizerConfig
from ..tokenizer.model import Tokenizer
from ..tokenizer.recipe import DecoderRecipe
from ..tokenizer.tune import DecoderStage
from ..training.config import TrainingConfig
from ..training.loop import TrainingResult
from .data_lines import data_lines
from .fit_batch import fit_batch
from .fitted import Fit
from .least_memory import check_memory
from .prior_codes import PriorCodes
from .readable import read_images
from .run import check_tokenizer, finish, own_run, start
from .settings import Settings

logger = logging.getLogger("imgtf")

BEFORE_FILE = "before.safetensors"
"""In the folder of the run: the tokenizer's weights before it."""


def tune_decoder(
    folder: Path,
    settings: Settings,
    *,
    resume: bool = False,
    force: bool = False,
    resume_from: int | None = None,
    started: float | None = None,
) -> TrainingResult:
    """Train the decoder of `folder/tokenizer` on images, with frozen encoder and codebook.

    Arguments as for `train_tokenizer`; `force` starts another run from the present weights.

    Raises:
        CheckpointError: there is no tokenizer; or a run is there and neither `resume` nor `force` is given, or another
            run is at work.
        ImgtfError: for settings or data that do not work.
    """
    check_tokenizer(folder)
    with own_run(folder, settings, DecoderStage.name, resume, force) as accelerator:
        return _tune_decoder(folder, settings, accelerator, resume, resume_from, started)


def _tune_decoder(
    folder: Path, settings: Settings, accelerator: Accelerator, resume: bool, resume_from: int | None,
    started: float | None,
) -> TrainingResult:  # fmt: skip
    data, augmentation = settings.part(DataConfig), settings.part(AugmentationConfig)
    headers = read_images(*open_source(data), data, folder if accelerator.is_main_process else None)
    training, recipe = settings.part(TrainingConfig), settings.part(DecoderRecipe)
    train, held_out = (one.readable() for one in headers)
    if train.stream is None:
        check_batch(len(train), training.batch_size)
    set_seed(training.seed)
    model = Tokenizer.from_pretrained(folder / "tokenizer", accelerator.device)
    model.config = config = _named(model)
    check_memory(config, training, settings.find_batch)
    for line in data_lines(headers, config):
        logger.info("%s", line)

    draw = PriorCodes.open(folder, model, train) if recipe.codes_from_prior else None

    def build(model: Tokenizer, training: TrainingConfig) -> DecoderStage:
        images = ImageDataset(train, config.size, config.channels, data, augmentation, seed=training.seed)
        shown = ImageDataset(held_out, config.size, config.channels, data)
        return DecoderStage(model, recipe, training, images, shown, worker_count(data), draw)

    if settings.find_batch:
        training = fit_batch(training, accelerator, lambda trial: build(deepcopy(model), trial))
    with accelerator.main_process_first():  # which may download what LPIPS needs
        stage = build(model, training)
    logger.info(
        "decoder: %s of %s parameters are trained; encoder and codebook are frozen, so codes, prior and token caches "
        "stay valid | %s, %s, %d held out | %s on %s",
        f"{stage.trained_parameters():,}", f"{model.parameter_count():,}", train.name, train.amount, len(held_out),
        accelerator.mixed_precision, accelerator.device,
    )  # fmt: skip
    fit, sections = Fit(settings, training.steps), (data, augmentation, recipe, training)
    trainer = start(stage, folder, accelerator, fit, sections, resume, resume_from, started)
    if accelerator.is_main_process:
        _keep_weights(folder, trainer.folder / BEFORE_FILE)
        # Before the first new weights: older priors and caches name the codes by all weights of this tokenizer.
        model.save_config(folder / "tokenizer")
    return finish(trainer, stage, folder, settings, resume)


def _named(model: Tokenizer) -> TokenizerConfig:
    """Return the configuration of a tokenizer with the name that its codes had before its decoder was tuned."""
    codes, *others = model.codes_names()
    known = model.config.tuned_from
    return model.config if known[:1] == (codes,) else replace(model.config, tuned_from=(codes, others[0]))


def _keep_weights(folder: Path, file: Path) -> None:
    """Keep the weights of the tokenizer as a file of the run, unless it is there."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(folder / "tokenizer" / WEIGHTS_FILE, file)
