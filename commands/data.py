"""`imgtf data`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ..data.config import DataConfig
from ..pipelines.settings import collect
from .options import command, file_type, force_option, json_option, named, option, settings_options
from .reporting import log_to_stderr


@command()
@click.argument("source", metavar="SRC")
@settings_options(DataConfig, but=("data",))
@option(
    "--all", "everything", is_flag=True, group="run", help="Read and decode every image, not only a sample."
)
@option(
    "--report",
    type=file_type,
    metavar="FILE.html",
    group="output",
    default_text="none",
    help="Write an HTML page with a contact sheet.",
)
@force_option("the file of --report")
@json_option
def data(
    source: str, everything: bool, report: Path | None, force: bool, as_json: bool, **given: Any
) -> None:
    """Show what would be trained on: files, sizes, labels, captions, duplicates, and the preset that fits.

    SRC is what --data of `tokenizer train` accepts, for example a folder. Nothing is trained.
    """
    settings = collect("tokenizer", (DataConfig,), {**named(given), "data": source})
    log_to_stderr()
    from ..pipelines.data_html import to_html
    from ..pipelines.data_report import describe_data
    from ..pipelines.data_text import to_lines
    from ..pipelines.files import check_files
    from ..pretrained import write_text

    check_files([report] if report else [], force)
    found = describe_data(settings.part(DataConfig), everything)
    click.echo(json.dumps(found.facts) if as_json else "\n".join(to_lines(found.facts)))
    if report:
        report.parent.mkdir(parents=True, exist_ok=True)
        write_text(report, to_html(found))
        click.echo(report, err=True)
