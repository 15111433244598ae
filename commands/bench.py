"""`imgtf bench`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ..bench.config import BenchConfig
from ..data.config import DataConfig
from ..options import build
from ..pipelines.settings import collect, option_names
from .options import (
    command,
    device_option,
    folder_type,
    force_option,
    json_option,
    local_model,
    name_type,
    named,
    option,
    preset_option,
    settings_options,
)
from .reporting import log_to_stderr

FILES = "bench"
"""Name of the two files in --out."""


@command()
@option(
    "--model",
    type=name_type,
    metavar="DIR|ID",
    group="run",
    default_text="a preset with random weights",
    help="Trained model to measure: a folder, or an id of the Hub.",
)
@preset_option("prior")
@settings_options(BenchConfig, DataConfig, defaults={"data": "none"})
@option(
    "--out",
    type=folder_type,
    metavar="DIR",
    group="output",
    help="Folder for the tables: bench.md and bench.json.",
)
@force_option("the files of --out")
@device_option
@json_option
def bench(
    model: str | None, preset: str | None, out: Path | None, force: bool, device: str, as_json: bool, **given: Any
) -> None:  # fmt: skip
    """Measure the speed of sampling, training and encoding, and compare it with the limits of this machine.

    Run nothing else at the same time. Image loading is measured only with --data.
    """
    if model and preset:
        raise click.UsageError("--model and --preset exclude each other.", click.get_current_context())
    settings = named(given)
    data = collect("tokenizer", (DataConfig,), _of(DataConfig, settings)).part(DataConfig)
    config = build(BenchConfig, _of(BenchConfig, settings), "bench")
    log_to_stderr()
    from ..bench.report import output_files, save, to_markdown
    from ..bench.run import bench as measure

    if out:
        output_files(out / FILES, force)
    folder = local_model(model) if model else None
    report = measure(
        config,
        model=folder,
        preset=preset or "tiny",
        data=data if "data" in settings else None,
        device=device,
    )
    click.echo(json.dumps(report) if as_json else to_markdown(report), nl=as_json)
    if out:
        for path in save(report, out / FILES, force):
            click.echo(path, err=True)


def _of(cls: type, given: dict[str, Any]) -> dict[str, Any]:
    """Return the options that belong to one configuration class."""
    return {name: value for name, value in given.items() if name in option_names(cls)}
