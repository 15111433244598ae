"""`imgtf prior`: train, eval."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from ..data.config import ConditionDataConfig, DataConfig
from ..pipelines.settings import AUTO, PRIOR_CLASSES, collect, collect_for_model
from ..prior.config import SamplingConfig
from .command import Group
from .options import (
    device_option,
    json_option,
    model_option,
    named,
    option,
    precision_option,
    run_options,
    settings_options,
)
from .reporting import log_to_stderr, report, report_run
from .types import SAMPLING_PRECISIONS, WholeRange


@click.group(cls=Group)
def prior() -> None:
    """Stage two: learn the distribution of the token grids."""


@prior.command()
@run_options("prior")
@settings_options(*[cls for cls in PRIOR_CLASSES if cls is not SamplingConfig], stage="prior")
@settings_options(SamplingConfig, stage="prior", common=False)
def train(
    model: Path, resume: bool, resume_from: int | None, force: bool, as_json: bool, **given: Any
) -> None:
    """Train the prior on the tokens of images, which are encoded first where no token cache fits.

    Without --data, the images of the tokenizer's run are used. The sampling options become the defaults of
    `imgtf sample`.
    """
    started = time.monotonic()
    run = model / "prior" / "train.toml"
    config = run if resume and run.exists() else None
    inherit = model / "tokenizer" / "train.toml"
    settings = collect("prior", PRIOR_CLASSES, named(given), config, inherit, AUTO)
    log_to_stderr()
    from ..pipelines.train import train_prior

    result = train_prior(
        model, settings, resume=resume, force=force, resume_from=resume_from, started=started
    )
    report_run(model / "prior", result, as_json)


@prior.command("eval")
@model_option
@settings_options(DataConfig, ConditionDataConfig, owner="the run's")
@option(
    "--orders",
    type=WholeRange(1, 10_000),
    metavar="N",
    default=1,
    group="measurement",
    help="Random orders to average over (random and masked priors).",
)
@precision_option("bf16 where that is faster", SAMPLING_PRECISIONS)
@device_option
@json_option
def evaluate(model: Path, orders: int, precision: str, device: str, as_json: bool, **given: Any) -> None:
    """Measure the likelihood of held-out images: bits per token and per pixel, in total and per class."""
    settings = collect_for_model(model, (DataConfig, ConditionDataConfig), named(given), "prior")
    data, conditions = settings.part(DataConfig), settings.part(ConditionDataConfig)
    log_to_stderr()
    from ..pipelines.evaluate_prior import evaluate_prior
    from ..pipelines.pipeline import Pipeline

    pipeline = Pipeline.from_pretrained(model, device, precision=precision)
    report(evaluate_prior(model, pipeline, data, conditions, orders=orders), as_json)
