"""`imgtf attention`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..options import shown
from .options import (
    background_option,
    command,
    device_option,
    file_type,
    force_option,
    json_option,
    model_option,
    option,
    precision_option,
)
from .reporting import log_to_stderr, report
from .types import SAMPLING_PRECISIONS, WholeRange, whole_numbers

NETWORKS, ORDERS = ("prior", "encoder", "decoder", "condition"), ("raster", "last")
MAX_NUMBER = 2**20


class RowColumn(click.ParamType):
    """`3,5` to (3, 5)."""

    name = "ROW,COLUMN"
    in_file = (str, list)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        try:
            row, column = whole_numbers(value)
        except ValueError:
            row = column = -1
        if min(row, column) < 0:
            self.fail(f"{shown(value)} is not a row and a column of the token grid, such as 3,5", param, ctx)
        return row, column


@command()
@click.argument("image", type=click.Path(path_type=Path))
@option(
    "--at",
    type=RowColumn(),
    metavar="ROW,COLUMN",
    required=True,
    group="run",
    help="Token that looks: row and column of the token grid, from 0.",
)
@model_option
@option(
    "--of",
    type=click.Choice(NETWORKS),
    default="prior",
    group="run",
    help="Network; condition: of the prior, over --image.",
)
@option(
    "--layer",
    type=WholeRange(0, MAX_NUMBER),
    metavar="N",
    group="run",
    default_text="the last one",
    help="Attention layer, from 0.",
)
@option(
    "--head",
    type=WholeRange(0, MAX_NUMBER),
    metavar="N",
    group="run",
    default_text="average over all heads",
    help="Attention head, from 0.",
)
@option(
    "--order",
    type=click.Choice(ORDERS),
    default="raster",
    group="run",
    common=False,
    help="Random priors: last predicts the token after all others.",
)
@option("--label", metavar="NAME", group="images", default_text="none", help="Class of the image.")
@option("--text", metavar="TEXT", group="images", default_text="none", help="Caption of the image.")
@option(
    "--image",
    "conditioning_image",
    type=click.Path(path_type=Path),
    metavar="FILE",
    group="images",
    default_text="none",
    help="Conditioning image.",
)
@background_option
@option(
    "--out",
    "-o",
    type=file_type,
    metavar="FILE",
    group="output",
    default_text="attention.png",
    default=Path("attention.png"),
    help="The picture, a PNG.",
)
@force_option("a file that exists")
@precision_option("bf16 where that is faster", SAMPLING_PRECISIONS)
@device_option
@json_option
def attention(
    image: Path, at: tuple[int, int], model: Path, out: Path, force: bool, precision: str, device: str,
    as_json: bool, **given: Any,
) -> None:  # fmt: skip
    """Draw where one token of IMAGE looks, in an attention layer of the prior or of the tokenizer.

    A frame marks the token. Colours from yellow to purple mark what it attends to.
    """
    log_to_stderr()
    from ..pipelines.attention_map import attention as attention_of
    from ..pipelines.files import check_files
    from ..pipelines.pipeline import Pipeline
    from ..pipelines.png import write_png

    check_files([out], force)
    models = Pipeline.from_pretrained(model, device, precision=precision)
    found = attention_of(models, image, at, **given)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_png(found.overlay(), out)
    report({"file": str(out), **found.summary()}, as_json)
