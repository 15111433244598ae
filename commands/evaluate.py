"""`imgtf evaluate`."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..data.config import ConditionDataConfig, DataConfig
from ..errors import ConfigError
from ..pipelines.settings import collect_for_model, option_names
from ..prior.config import SamplingConfig
from .options import (
    command,
    device_option,
    file_type,
    first_given,
    folder_type,
    force_option,
    json_option,
    model_option,
    named,
    option,
    precision_option,
    settings_options,
)
from .reporting import log_to_stderr
from .sampling import stop_on_terminate
from .types import (
    MAX_BATCH,
    MAX_IMAGES,
    MAX_SEED,
    SAMPLING_PRECISIONS,
    AutoOrCount,
    FiniteRange,
    Names,
    WholeRange,
)

if TYPE_CHECKING:
    from ..pipelines.pipeline import Pipeline
    from ..pipelines.processes import Processes
    from ..runtime.progress import Bar

logger = logging.getLogger("imgtf")

BUDGET, METRIC = 10.0, "kernel"
MAX_BUDGET = 60 * 24 * 30
OF_MODEL = (
    *option_names(SamplingConfig), *option_names(ConditionDataConfig), "n", "seed", "batch_size", "precision"
)  # fmt: skip
"""Options that have no effect on the images of a folder."""
NOT_OF_SEARCH = ("n", "memorisation")
"""Options that have no effect on a search: its budget sets the number of samples."""


@dataclass(frozen=True)
class EvaluationRun:
    """The options of the command."""

    n: int
    seed: int
    batch_size: int | None
    features: str
    reference: str
    samples: Path | None
    memorisation: bool
    search: bool
    budget: float | None
    metric: str | None
    keep: bool
    inception_file: Path | None
    cache: Path | None
    model: Path
    out: Path | None
    force: bool
    precision: str
    device: str
    as_json: bool

    def check(self) -> None:
        """Raise a usage error for options that mean nothing together."""
        for name in ("budget", "metric", "keep"):
            if getattr(self, name) and not self.search:
                raise click.UsageError(f"--{name} is for --search")
        if self.samples is not None and (flag := "--search" if self.search else first_given(OF_MODEL)):
            raise click.UsageError(f"--samples judges images of a folder, which {flag} cannot change")
        if self.search and (flag := first_given(NOT_OF_SEARCH)):
            raise click.UsageError(f"{flag} has no effect with --search: leave it out")


OPTIONS = [
    option(
        "--n", "-n", type=WholeRange(2, MAX_IMAGES), metavar="N", default=1000, group="images",
        help="Number of samples.",
    ),
    option(
        "--seed", type=WholeRange(0, MAX_SEED), metavar="N", default=0, group="images", common=False,
        help="Same seed, same samples.",
    ),
    option(
        "--samples", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
        group="images", help="Judge the images of this folder instead of samples.",
    ),
    settings_options(DataConfig, ConditionDataConfig, owner="the run's"),
    option(
        "--reference", type=click.Choice(["held-out", "train"]), default="held-out", group="measurement",
        help="Real images to compare with.",
    ),
    option(
        "--features", type=Names(), metavar="NAME,...", default="auto", group="measurement",
        help="inception, squeeze, alex, vgg, classifier; auto: inception if it can be had.",
    ),
    option(
        "--memorisation/--no-memorisation", default=True, group="measurement", common=False, default_text="on",
        help="Compare the samples with all training images.",
    ),
    option(
        "--inception-file", type=file_type, metavar="FILE", group="measurement", common=False,
        default_text="in $TORCH_HOME", help="Weights of Inception-v3 as torch-fidelity publishes them.",
    ),
    option(
        "--cache", type=folder_type, metavar="DIR", group="measurement", common=False,
        default_text="~/.cache/imgtf", help="Folder of classifiers and reference statistics.",
    ),
    option("--search", is_flag=True, group="sampling", help="Find the best sampling settings."),
    option(
        "--budget", type=FiniteRange(0.01, MAX_BUDGET), metavar="MIN", group="sampling",
        default_text=f"{BUDGET:g}", help="Minutes of the search.",
    ),
    option(
        "--metric", type=click.Choice(["kernel", "frechet"]), group="sampling", common=False,
        default_text=METRIC, help="What the search lowers: the kernel (KID) or the Frechet distance.",
    ),
    option(
        "--keep", is_flag=True, group="sampling",
        help="Make the best settings the model's defaults, if they are better.",
    ),
    settings_options(SamplingConfig, owner="the model's", common=False),
    option(
        "--batch-size", type=AutoOrCount(MAX_BATCH), metavar="N", default="auto", group="device",
        common=False, help="Images at once; auto: as many as half of the free memory holds.",
    ),
    model_option,
    option(
        "--out", type=folder_type, metavar="DIR", group="output",
        default_text="next free MODEL/evaluation/NNN", help="Folder for the report and the pictures.",
    ),
    force_option("files in a folder that is not empty"),
    precision_option("bf16 where that is faster", SAMPLING_PRECISIONS),
    device_option,
    json_option,
]  # fmt: skip


def evaluate(**given: Any) -> None:
    """Judge samples: distances to held-out images, precision and recall, memorised training images.

    The distances are FID and KID with the features of Inception-v3 only. Several processes (torchrun, accelerate
    launch) share the work.
    """
    own = {field.name: given.pop(field.name) for field in fields(EvaluationRun)}
    run = EvaluationRun(**own)
    options = named(given)
    settings = {name: options.pop(name) for name in SamplingConfig.__dataclass_fields__ if name in options}
    run.check()
    data = _data(run.model, options)
    log_to_stderr()
    from ..pipelines.processes import process_group

    stop_on_terminate()
    with process_group() as processes:
        _run(run, data, settings, processes)


for _decorate in reversed(OPTIONS):
    evaluate = _decorate(evaluate)
evaluate = command()(evaluate)


def _data(model: Path, given: dict[str, Any]) -> tuple[DataConfig, ConditionDataConfig]:
    """The data to compare with: as given, else those of the model's run. Raises ConfigError where there is none."""
    runs = [model / stage / "train.toml" for stage in ("prior", "tokenizer")]
    if "data" not in given and not any(run.exists() for run in runs):
        raise ConfigError(f"{model}: does not say what it was trained on; name the real images with --data")
    settings = collect_for_model(model, (DataConfig, ConditionDataConfig), given, "prior")
    return settings.part(DataConfig), settings.part(ConditionDataConfig)


def _run(
    run: EvaluationRun, data: tuple[DataConfig, ConditionDataConfig], settings: dict[str, Any],
    processes: Processes,
) -> None:  # fmt: skip
    from ..evaluation.features import check_features
    from ..pipelines.evaluate_samples import evaluate as evaluate_model
    from ..pipelines.evaluate_samples import evaluate_folder
    from ..pipelines.judge import JudgeOptions
    from ..pipelines.pipeline import Pipeline
    from ..pipelines.write import check_out, results_in
    from ..runtime.repository import results_folder

    check_features(run.features)
    if run.out and processes.is_first:
        check_out(run.out, run.force)
    results = results_folder(run.model)
    if run.keep and results != run.model:
        raise ConfigError("--keep changes the model: download it to a folder of your own first")
    options = JudgeOptions(run.features, run.reference, run.cache, run.inception_file)
    shared: dict[str, Any] = {"options": options, "processes": processes}
    device = processes.device(run.device)
    with results_in(run.out, results / "evaluation", processes) as out:
        with Bars(processes.is_first) as bars:
            shared |= {"progress": bars}
            if run.samples is not None:
                found = evaluate_folder(
                    run.samples, data[0], model=run.model, device=device,
                    memorisation=run.memorisation, **shared,
                )  # fmt: skip
            else:
                pipeline = Pipeline.from_pretrained(run.model, device, precision=run.precision)
                if run.search:
                    _search(run, pipeline, data, settings, out, shared)
                    return
                found = evaluate_model(
                    pipeline, data[0], run.n, columns=data[1], seed=run.seed, batch_size=run.batch_size,
                    settings=settings, memorisation=run.memorisation, **shared,
                )  # fmt: skip
        if processes.is_first:
            report = found.write(out)
            record = found.record() | {"out": str(out)}
            click.echo(json.dumps(record) if run.as_json else "\n".join([*found.lines(), "", str(report)]))


def _search(
    run: EvaluationRun, pipeline: Pipeline, data: tuple[DataConfig, ConditionDataConfig], settings: dict[str, Any],
    out: Path, shared: dict[str, Any],
) -> None:  # fmt: skip
    from ..pipelines.evaluate_samples import judge_of
    from ..pipelines.search_report import keep_settings, record, write_search
    from ..pipelines.search_samples import SampleQuality, search_settings

    judge = judge_of(pipeline, *data, **shared)
    metric = run.metric or METRIC
    objective = SampleQuality(pipeline, judge, metric, run.seed, run.batch_size)
    result = search_settings(objective, run.budget or BUDGET, settings=settings)
    if not judge.processes.is_first:
        return
    report = write_search(result, out, metric, objective.about())
    kept = run.keep and result.improved
    if kept:
        path = keep_settings(run.model, result.best)
        logger.info("%s: these settings are now the model's defaults", path)
    if run.as_json:
        found = record(result, metric) | objective.about() | {"kept": kept, "out": str(out)}
        click.echo(json.dumps(found))
    else:
        click.echo(f"{result.conclusion()}\n{report}")


class Bars:
    """One progress bar for each kind of work; lines in the log where stderr is no terminal."""

    def __init__(self, shown: bool) -> None:
        self.shown, self.what = shown, ""
        self.bar: Bar | None = None
        self.done, self.tenths = 0.0, 0

    def __call__(self, what: str, done: float, total: int) -> None:
        """Add to the work of a kind that is done."""
        if what != self.what:
            self._start(what, total)
        self.done += done
        if self.bar is not None and self.bar.visible:
            self.bar.update(min(int(self.done), total) - self.bar.done)
        elif self.shown and int(10 * self.done / total) > self.tenths:
            self.tenths = int(10 * self.done / total)
            logger.info("%s: %d of %d", what, min(int(self.done), total), total)

    def _start(self, what: str, total: int) -> None:
        from ..runtime.progress import Bar

        self.close()
        self.what, self.done, self.tenths = what, 0.0, 0
        self.bar = Bar(what, total, "s" if what == "search" else "image", shown=self.shown)

    def close(self) -> None:
        """End the bar."""
        if self.bar is not None:
            self.bar.close()

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
