"""Training either stage from settings: opens the data, sizes the model to it, runs the loop, writes the card."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from PIL import Image
from torch import Tensor

from ..data.codes import CodesDataset, open_codes
from ..data.config import DataConfig, check_views, flips, worker_count
from ..data.image import to_pil
from ..data.images import ImageDataset
from ..data.loader import eval_batches
from ..data.order import check_batch
from ..data.source import ImageSource, open_source
from ..errors import CheckpointError
from ..prior.config import PriorRecipe
from ..prior.train import PriorStage
from ..tokenizer.config import TokenizerRecipe
from ..tokenizer.metrics import CodeCounts
from ..tokenizer.model import Tokenizer
from ..tokenizer.train import TokenizerStage
from ..training.accelerator import make_accelerator
from ..training.checkpoint import latest_state
from ..training.config import TrainingConfig
from ..training.loop import Trainer, TrainingResult
from ..training.report import LOG_FILE
from .card import write_card
from .conditions import SOURCE_FOLDER, Beside, choose_conditions, describe_conditions, open_beside
from .encode import describe, encode, find_codes
from .initial import continued_prior, continued_tokenizer, new_prior, new_tokenizer
from .plots import CURVES_FILE, USAGE_FILE, can_draw, draw_curves, draw_usage
from .settings import Settings

logger = logging.getLogger("imgtf")

RUN_FILE = "train.toml"
"""The resolved settings of a run, beside the weights it made."""


def train_tokenizer(
    folder: Path, settings: Settings, *, resume: bool = False, force: bool = False
) -> TrainingResult:
    """Trains `folder/tokenizer` on images.

    Raises:
        CheckpointError: when weights are there and neither `resume` nor `force` is given.
        ImgtfError: for settings or data that do not work.
    """
    data, training = settings.part(DataConfig), settings.part(TrainingConfig)
    recipe = settings.part(TokenizerRecipe)
    _check_free(folder, "tokenizer", resume, force)
    accelerator = make_accelerator(training, folder / "training" / "tokenizer")
    train, held_out = open_source(data)
    check_batch(len(train), training.batch_size)
    set_seed(training.seed)
    if training.init_from and not resume:
        model = continued_tokenizer(Path(training.init_from), settings)
    else:
        model = new_tokenizer(settings, train)
    config = model.config
    with accelerator.main_process_first():  # which may download what LPIPS needs
        stage = TokenizerStage(
            model,
            recipe,
            training,
            ImageDataset(train, config.image_size, config.channels, data, augment=True, seed=training.seed),
            ImageDataset(held_out, config.image_size, config.channels, data, augment=False, seed=0),
            workers=worker_count(data),
        )
    logger.info(
        "tokenizer: %s parameters, %dx%d px to %dx%d codes of %d | %s, %d images, %d held out | %s on %s",
        f"{model.parameter_count():,}", config.image_size, config.image_size, *config.grid,
        config.codebook_size, train.name, len(train), len(held_out), accelerator.mixed_precision, accelerator.device,
    )  # fmt: skip
    trainer = _start(stage, folder, accelerator, settings, (data, config, recipe, training), resume)
    return _finish(trainer, stage, folder)


def train_prior(
    folder: Path, settings: Settings, *, resume: bool = False, force: bool = False
) -> TrainingResult:
    """Trains `folder/prior` on the codes that `folder/tokenizer` makes of images, encoding them first if need be.

    Raises as `train_tokenizer`.
    """
    data, training = settings.part(DataConfig), settings.part(TrainingConfig)
    recipe = settings.part(PriorRecipe)
    check_views(data, recipe.crops_per_image)
    _check_free(folder, "prior", resume, force)
    if not (folder / "tokenizer" / "config.json").exists():
        raise CheckpointError(
            f"{folder} holds no tokenizer: train one first (imgtf tokenizer train --model {folder})"
        )
    accelerator = make_accelerator(training, folder / "training" / "prior")
    tokenizer = Tokenizer.from_pretrained(folder / "tokenizer", accelerator.device)
    train, held_out = open_source(data)
    check_batch(len(train), training.batch_size)
    conditions = choose_conditions(recipe, data, train)
    with accelerator.main_process_first():
        beside = open_beside(conditions, recipe, data, (train, held_out), tokenizer)
    set_seed(training.seed)
    if training.init_from:
        # No option says all about that network: a resumed run reads the rest where it has kept it.
        kept = resume and (folder / "prior" / "config.json").exists()
        other = folder if kept else Path(training.init_from)
        model = continued_prior(other, settings, tokenizer, train, conditions, beside[0])
    else:
        model = new_prior(settings, tokenizer, train, conditions, beside[0])
    with accelerator.main_process_first():
        encoded = partial(codes_of, folder, tokenizer, data=data, precision=training.precision)
        train_codes = encoded(
            train, beside=beside[0], augment=True, views=recipe.crops_per_image, seed=training.seed
        )
        held_out_codes = None
        if len(held_out):
            held_out_codes = encoded(held_out, beside=beside[1], augment=False, seed=0)
    draw_source = drawer(beside[0].tokenizer) if beside[0].tokenizer is not None else None
    stage = PriorStage(model, recipe, training, train_codes, held_out_codes, drawer(tokenizer), draw_source)
    config = model.config
    logger.info(
        "prior: %s parameters, %d tokens, %s, told: %s | %s, %d images, %d held out | %s on %s",
        f"{model.parameter_count():,}", config.tokens, config.objective, describe_conditions(config),
        train.name, len(train_codes), len(held_out_codes or ()), accelerator.mixed_precision, accelerator.device,
    )  # fmt: skip
    parts = (data, config, recipe, config.sampling, training)
    trainer = _start(stage, folder, accelerator, settings, parts, resume)
    if accelerator.is_main_process and recipe.conditioning_model and beside[0].tokenizer is not None:
        beside[0].tokenizer.save_pretrained(folder / SOURCE_FOLDER)
    return _finish(trainer, stage, folder)


def _start(
    stage: TokenizerStage | PriorStage,
    folder: Path,
    accelerator: Accelerator,
    settings: Settings,
    parts: tuple[Any, ...],
    resume: bool,
) -> Trainer:
    """From here on the folder is written: nothing before has touched what it held, codes apart.

    A run that cannot be resumed is refused before that.
    """
    # Processes share the weights but not the random numbers of dropout and dead codes.
    set_seed(stage.config.seed, device_specific=True)
    trainer = Trainer(stage, stage.config, folder, accelerator)
    if resume:
        trainer.restore()
    if accelerator.is_main_process:
        if not resume:
            shutil.rmtree(folder / stage.name, ignore_errors=True)
            shutil.rmtree(folder / "training" / stage.name, ignore_errors=True)
        settings.save(folder / stage.name / RUN_FILE, parts)
    start_trackers(stage.name, accelerator, settings.resolved(parts))
    return trainer


def _finish(trainer: Trainer, stage: TokenizerStage | PriorStage, folder: Path) -> TrainingResult:
    outcome = trainer.run()
    if trainer.accelerator.is_main_process:
        write_card(folder)
        if can_draw():
            _draw(stage, folder)
    return outcome


def start_trackers(name: str, accelerator: Accelerator, settings: dict[str, Any]) -> None:
    """Opens a run named `imgtf-<stage>` in every tracker asked for, with the resolved settings."""
    flat = {k: ",".join(map(str, v)) if isinstance(v, list) else v for k, v in settings.items()}
    if accelerator.log_with:
        accelerator.init_trackers(f"imgtf-{name}", flat)


def _draw(stage: TokenizerStage | PriorStage, folder: Path) -> None:
    training = folder / "training" / stage.name
    draw_curves(training / LOG_FILE, training / CURVES_FILE)
    if isinstance(stage, TokenizerStage):
        shown = stage.held_out_set if len(stage.held_out_set) else stage.train_set
        counts = count_codes(folder / stage.name, shown, stage.config, stage.accelerator.device)
        draw_usage(counts, training / USAGE_FILE)


@torch.no_grad()
def count_codes(
    folder: Path, images: ImageDataset, config: TrainingConfig, device: torch.device
) -> np.ndarray:
    """How often the weights that were kept use each code, (V,), on as many images as an evaluation looks at."""
    tokenizer = Tokenizer.from_pretrained(folder, device)
    counts = CodeCounts(tokenizer.config.codebook_size)
    for batch in eval_batches(images, config.batch_size, limit=config.eval_images):
        counts.add(tokenizer.encode(batch["image"].to(device)))
    return counts.counts.numpy()


def codes_of(
    folder: Path,
    tokenizer: Tokenizer,
    source: ImageSource,
    data: DataConfig,
    beside: Beside,
    *,
    augment: bool,
    views: int = 1,
    seed: int,
    precision: str = "auto",
) -> CodesDataset:
    """The cached codes of a source, encoded now where no cache fits; ready for training or evaluation."""
    mirrored = augment and flips(data)
    asked: dict[str, Any] = {"flips": mirrored, "views": views, "beside": beside, "precision": precision}
    found = find_codes(folder / "codes", describe(tokenizer, source, data, **asked))
    if found is None:
        found = encode(tokenizer, source, data, folder / "codes", **asked)
    return open_codes(found, augment=mirrored, views=views, seed=seed)


def drawer(tokenizer: Tokenizer) -> Callable[[Tensor], list[Image.Image]]:
    """A function from codes (B, T) to pictures."""

    @torch.no_grad()
    def draw(codes: Tensor) -> list[Image.Image]:
        grid = codes.unflatten(1, tokenizer.config.grid).to(tokenizer.device)
        return [to_pil(image) for image in tokenizer.decode(grid)]

    return draw


def _check_free(folder: Path, stage: str, resume: bool, force: bool) -> None:
    state = latest_state(folder / "training" / stage / "state")
    if resume and state is None:
        raise CheckpointError(f"{folder} holds no {stage} run to resume; start one without --resume")
    if (state or (folder / stage / "model.safetensors").exists()) and not (resume or force):
        raise CheckpointError(
            f"{folder} already holds a {stage}: go on with --resume, replace it with --force, "
            f"or name another folder with --model"
        )
