"""`imgtf info`."""

from __future__ import annotations

import click

from .options import command, json_option, local_model, name_type
from .reporting import log_to_stderr, report


@command()
@click.argument("folder", metavar="[MODEL]", default="model", type=name_type)
@json_option
def info(folder: str, as_json: bool) -> None:
    """Describe a model folder: sizes, classes, parameters, and the memory that sampling takes.

    MODEL is the folder, `model` by default, or an id of the Hub.
    """
    log_to_stderr()
    from ..pipelines.info import describe_model

    report(describe_model(local_model(folder)), as_json)
