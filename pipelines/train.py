"""Training either stage from settings: open the data, size the model to it, run the loop, write the model card."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from PIL import Image
from torch import Tensor

from ..data.config import AugmentationConfig, DataConfig, check_crops, worker_count
from ..data.image import to_pil
from ..data.images import ImageDataset
from ..data.order import check_batch
from ..data.probe import Headers
from ..data.source import open_source
from ..pretrained import write_text
from ..prior.config import PriorConfig
from ..prior.model import Prior
from ..prior.recipe import CacheRecipe, PriorRecipe
from ..prior.train import PriorStage
from ..runtime.repository import model_folder
from ..tokenizer.config import TokenizerConfig
from ..tokenizer.model import Tokenizer
from ..tokenizer.recipe import TokenizerRecipe
from ..tokenizer.train import TokenizerStage
from ..training.config import TrainingConfig
from ..training.loop import TrainingResult
from .auto import fit_prior, fit_tokenizer
from .codes_names import present_names
from .conditioning_images import IMAGE_TOKENIZER, ImageLoader
from .conditions import describe_conditions
from .data_lines import data_lines
from .files import DATA_FILE
from .fit_batch import fit_batch
from .initial import (
    continued_prior,
    continued_tokenizer,
    new_prior,
    new_tokenizer,
    prior_config,
    tokenizer_config,
)
from .prior_data import CODES_FOLDER, PriorData, open_prior_data
from .processes import connected_processes
from .readable import read_images
from .regularisation import possible_crops
from .run import check_tokenizer, finish, own_run, start
from .settings import Settings

logger = logging.getLogger("imgtf")


def train_tokenizer(
    folder: Path,
    settings: Settings,
    *,
    resume: bool = False,
    force: bool = False,
    resume_from: int | None = None,
    started: float | None = None,
) -> TrainingResult:
    """Train `folder/tokenizer` on images.

    Args:
        resume_from: resume from the saved state of this step, instead of the newest one.
        started: `time.monotonic()` at which the time of --minutes and --max-minutes began; now by default.

    Raises:
        CheckpointError: when weights are there and neither `resume` nor `force` is given, or another run is at work.
        ImgtfError: for settings or data that do not work.
    """
    with own_run(folder, settings, "tokenizer", resume, force) as accelerator:
        return _train_tokenizer(folder, settings, accelerator, resume, resume_from, started)


def _train_tokenizer(
    folder: Path, settings: Settings, accelerator: Accelerator, resume: bool, resume_from: int | None,
    started: float | None,
) -> TrainingResult:  # fmt: skip
    data, augmentation = settings.part(DataConfig), settings.part(AugmentationConfig)
    headers = read_images(*open_source(data), data, folder if accelerator.is_main_process else None)
    fit = fit_tokenizer(
        settings, headers[0], lambda one: _tokenizer_config(one, headers[0], resume), accelerator
    )
    settings = fit.settings
    training, recipe = settings.part(TrainingConfig), settings.part(TokenizerRecipe)
    train, held_out = (one.readable() for one in headers)
    if train.stream is None:
        check_batch(len(train), training.batch_size)
    set_seed(training.seed)
    model = _initial_tokenizer(settings, headers[0], resume)
    config = model.config
    preset = "" if training.init_from or "image_size" in settings.explicit else settings.preset
    lines = data_lines(headers, config, preset)
    for line in lines:
        logger.info("%s", line)

    def build(model: Tokenizer, training: TrainingConfig) -> TokenizerStage:
        images = ImageDataset(train, config.size, config.channels, data, augmentation, seed=training.seed)
        shown = ImageDataset(held_out, config.size, config.channels, data)
        return TokenizerStage(model, recipe, training, images, shown, workers=worker_count(data))

    if settings.find_batch:
        training = fit_batch(training, accelerator, lambda trial: build(deepcopy(model), trial))
    with accelerator.main_process_first():  # which may download what LPIPS needs
        stage = build(model, training)
    logger.info(
        "tokenizer: %s parameters, %dx%d px to %dx%d codes of %d | %s, %s, %d held out | %s on %s",
        f"{model.parameter_count():,}", *config.size, *config.grid,
        config.codebook_size, train.name, train.amount, len(held_out), accelerator.mixed_precision, accelerator.device,
    )  # fmt: skip
    sections = (data, augmentation, config, recipe, training)
    trainer = start(stage, folder, accelerator, fit, sections, resume, resume_from, started)
    if accelerator.is_main_process:
        write_text(folder / "tokenizer" / DATA_FILE, "\n".join(lines) + "\n")
    return finish(trainer, stage, folder, settings, resume)


def train_prior(
    folder: Path,
    settings: Settings,
    *,
    resume: bool = False,
    force: bool = False,
    resume_from: int | None = None,
    started: float | None = None,
) -> TrainingResult:
    """Train `folder/prior` on the codes that `folder/tokenizer` makes of images, encoding them first if need be.

    Arguments and errors as for `train_tokenizer`.
    """
    check_crops(settings.part(AugmentationConfig), settings.part(CacheRecipe).crops_per_image)
    check_tokenizer(folder)
    with own_run(folder, settings, "prior", resume, force) as accelerator:
        return _train_prior(folder, settings, accelerator, resume, resume_from, started)


def _train_prior(
    folder: Path, settings: Settings, accelerator: Accelerator, resume: bool, resume_from: int | None,
    started: float | None,
) -> TrainingResult:  # fmt: skip
    tokenizer = Tokenizer.from_pretrained(folder / "tokenizer", accelerator.device)
    with accelerator.main_process_first():  # which may download a text encoder
        data = open_prior_data(settings, tokenizer, resume)
    main = folder if accelerator.is_main_process else None
    headers = read_images(data.train, data.held_out, settings.part(DataConfig), main, False)[0]
    fit = fit_prior(
        settings, headers.training_images(), math.prod(tokenizer.config.grid),
        lambda one: _prior_config(folder, one, tokenizer, data, resume), accelerator,
        possible_crops(headers, tokenizer.config.size),
    )  # fmt: skip
    settings = fit.settings
    data = replace(data, settings=settings)
    training, recipe = settings.part(TrainingConfig), settings.part(PriorRecipe)
    if data.train.stream is None:
        check_batch(len(data.train), training.batch_size)
    set_seed(training.seed)
    model = _initial_prior(folder, settings, tokenizer, data, resume)
    processes = connected_processes()
    codes, held_out = data.codes(
        folder / CODES_FOLDER, tokenizer, training.precision, training.seed, processes
    )
    images = next((own for own in data.loaders if isinstance(own, ImageLoader)), None)
    names = present_names(tokenizer, data.loaders) if resume else {}

    def build(model: Prior, training: TrainingConfig) -> PriorStage:
        decoders = decoder_of(tokenizer), decoder_of(images.image_tokenizer) if images else None
        return PriorStage(model, recipe, training, codes, held_out, *decoders, names)

    if settings.find_batch:
        training = fit_batch(training, accelerator, lambda trial: build(deepcopy(model), trial))
    stage = build(model, training)
    config = model.config
    logger.info(
        "prior: %s parameters, %d tokens, %s, conditions: %s | %s, %d images, %d held out | %s on %s",
        f"{model.parameter_count():,}", config.tokens, config.objective, describe_conditions(config),
        data.train.name, len(codes), len(held_out or ()), accelerator.mixed_precision, accelerator.device,
    )  # fmt: skip
    sections = (*data.sections(), config, recipe, config.sampling, training)
    trainer = start(stage, folder, accelerator, fit, sections, resume, resume_from, started)
    if accelerator.is_main_process and images and images.image_tokenizer is not tokenizer:
        images.image_tokenizer.save_pretrained(folder / IMAGE_TOKENIZER)
    return finish(trainer, stage, folder, settings, resume)


def _initial_tokenizer(settings: Settings, headers: Headers, resume: bool) -> Tokenizer:
    init_from = settings.part(TrainingConfig).init_from
    if init_from and not resume:
        return continued_tokenizer(model_folder(init_from), settings)
    return new_tokenizer(settings, headers)


def _tokenizer_config(settings: Settings, headers: Headers, resume: bool) -> TokenizerConfig:
    """The configuration of `_initial_tokenizer`, where possible without its weights."""
    if settings.part(TrainingConfig).init_from and not resume:
        return _initial_tokenizer(settings, headers, resume).config
    return tokenizer_config(settings, headers)


def _initial_prior(
    folder: Path, settings: Settings, tokenizer: Tokenizer, data: PriorData, resume: bool
) -> Prior:
    init_from = settings.part(TrainingConfig).init_from
    if not init_from:
        return new_prior(settings, tokenizer, data.loaders)
    # No option describes all of that network: a resumed run reads the rest from its own folder.
    own = resume and (folder / "prior" / "config.json").exists()
    return continued_prior(folder if own else model_folder(init_from), settings, tokenizer, data.loaders)


def _prior_config(
    folder: Path, settings: Settings, tokenizer: Tokenizer, data: PriorData, resume: bool
) -> PriorConfig:
    """The configuration of `_initial_prior`, where possible without its weights."""
    if settings.part(TrainingConfig).init_from:
        return _initial_prior(folder, settings, tokenizer, data, resume).config
    return prior_config(settings, tokenizer, data.loaders)


def decoder_of(tokenizer: Tokenizer) -> Callable[[Tensor], list[Image.Image]]:
    """A function from codes (B, T) to images."""

    @torch.no_grad()
    def draw(codes: Tensor) -> list[Image.Image]:
        grid = codes.unflatten(1, tokenizer.config.grid).to(tokenizer.device)
        return [to_pil(image) for image in tokenizer.decode(grid)]

    return draw
