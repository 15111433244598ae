"""`imgtf info`."""

from __future__ import annotations

from pathlib import Path

import click

from .options import command, folder_type, json_option
from .reporting import log_to_stderr, report


@command()
@click.argument("folder", metavar="[MODEL]", default="model", type=folder_type)
@json_option
def info(folder: Path, as_json: bool) -> None:
    """Describe a model folder: sizes, classes, parameters, and the memory that sampling takes.

    MODEL is the folder, `model` by default.
    """
    log_to_stderr()
    from ..pipelines.info import describe_model

    report(describe_model(folder), as_json)
