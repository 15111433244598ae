"""`imgtf import` and `imgtf export`: published weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .options import command, force_option, json_option, model_option, option, own_model_option
from .reporting import log_to_stderr, report_files
from .types import ImageSize, WholeRange

stage_type = click.Choice(["tokenizer", "prior"])
FAMILIES = ("llamagen", "taming", "diffusers")
path_type = click.Path(path_type=Path)


@command("import")
@click.argument("family", type=click.Choice(["auto", *FAMILIES]))
@click.argument("files", nargs=-1, required=True, type=path_type)
@own_model_option
@option(
    "--stage",
    type=stage_type,
    group="run",
    default_text="all",
    help="Import only this stage of a file with both.",
)
@option(
    "--heads",
    type=WholeRange(1, 1024),
    metavar="N",
    group="network",
    default_text="as published for the width",
    help="Attention heads of the prior.",
)
@option(
    "--image-size",
    type=ImageSize(4, 2**14),
    metavar="N|HxW",
    group="network",
    default_text="of the YAML, config.json or tokenizer, else 256",
    help="Images in pixels: side of a square, or height x width.",
)
@option(
    "--classes",
    type=WholeRange(0, 2**20),
    metavar="N",
    group="network",
    default_text="of the YAML",
    help="Classes of a taming prior; 0 for an unconditional one.",
)
@force_option("models in the model folder", "run")
@json_option
def import_command(family: str, files: tuple[Path, ...], model: Path, as_json: bool, **given: Any) -> None:
    """Convert published weights into a model folder.

    FILES are .pt, .pth, .ckpt or .safetensors files, each followed by its YAML where it has one, or folders of
    diffusers' VQModel. No code in them is run. FAMILY auto recognises the family by the names of the tensors.
    """
    log_to_stderr()
    from ..pipelines.exchange import import_weights

    report_files("folders", import_weights(family, files, model, **given), as_json)


@command("export")
@click.argument("family", type=click.Choice(FAMILIES))
@click.argument("file", type=path_type)
@model_option
@option(
    "--stage",
    type=stage_type,
    group="run",
    default_text="the only one in the folder; diffusers: the tokenizer",
    help="Stage to export.",
)
@force_option("the file, or the files in the folder")
@json_option
def export_command(
    family: str, file: Path, model: Path, stage: str | None, force: bool, as_json: bool
) -> None:
    """Write a model as FILE (.safetensors) with the tensor names of a published code base.

    For diffusers, FILE is a folder. It gets the tokenizer as a VQModel.
    """
    log_to_stderr()
    from ..pipelines.exchange import export_weights

    report_files("files", [export_weights(family, model, file, stage=stage, force=force)], as_json)
