"""`imgtf compress` and `imgtf decompress`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import (
    background_option,
    command,
    device_option,
    force_option,
    json_option,
    model_option,
    option,
    precision_option,
)
from .reporting import log_to_stderr, report_files
from .types import SAMPLING_PRECISIONS

if TYPE_CHECKING:
    from ..pipelines.models import Models
    from ..pipelines.request import Progress

existing = click.Path(dir_okay=False, path_type=Path)


def out_option(what: str) -> Any:
    """`--out`; with several inputs a folder."""
    return option(
        "--out", "-o", type=click.Path(path_type=Path), metavar="FILE", required=True, group="output",
        help=f"{what}; a folder for several.",
    )  # fmt: skip


@command()
@click.argument("images", nargs=-1, required=True, type=existing)
@out_option("The compressed file")
@option("--label", metavar="NAME", group="images", default_text="none", help="Class of the images.")
@option("--text", metavar="TEXT", group="images", default_text="none", help="Caption of the images.")
@background_option
@model_option
@force_option("files that exist")
@precision_option("bf16 where that is faster", SAMPLING_PRECISIONS)
@device_option
@json_option
def compress(
    images: tuple[Path, ...], out: Path, model: Path, force: bool, precision: str, device: str, as_json: bool,
    **given: Any,
) -> None:  # fmt: skip
    """Compress images at the model's size: the tokenizer's codes, range coded with the prior's probabilities.

    The file is much smaller than a JPEG, and can be decompressed with the same model on the same machine only.
    """
    log_to_stderr()
    from ..pipelines.compression.files import SUFFIX, compress_files, output_files
    from ..pipelines.pipeline import Pipeline
    from ..runtime.progress import Bar

    files = output_files(images, out, SUFFIX, force)
    models = Pipeline.from_pretrained(model, device, precision=precision)
    total = len(images) * models.prior.config.tokens
    with Bar("compress", total, "token") as bar:
        rows = compress_files(models, images, files, bar.update, **given)
    _report_sizes(rows, as_json)


@command()
@click.argument("files", nargs=-1, required=True, type=existing)
@out_option("The image, a PNG")
@model_option
@force_option("files that exist")
@device_option
@json_option
def decompress(
    files: tuple[Path, ...], out: Path, model: Path, force: bool, device: str, as_json: bool
) -> None:
    """Decompress files that `imgtf compress` wrote, with the model and on the machine that compressed them."""
    log_to_stderr()
    from ..pipelines.compression.files import decompress_files, output_files, read_files
    from ..pipelines.pipeline import Pipeline
    from ..runtime.progress import Bar

    def load(precision: str, kind: str) -> Models:
        return Pipeline.from_pretrained(model, kind if device == "auto" else device, precision=precision)

    images = output_files(files, out, ".png", force)
    compressed = read_files(files)
    with Bar("decompress", 0, "token") as bar:

        def start(tokens: int) -> Progress:
            bar.grow(tokens)
            return bar.update

        decompress_files(load, compressed, images, start)
    report_files("files", images, as_json)


def _report_sizes(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"files": rows}))
        return
    for row in rows:
        sizes = f"{row['bytes']} bytes, {row['header_bytes']} of them header"
        click.echo(f"{row['file']}  {sizes}, {row['bits_per_pixel']:.3f} bits per pixel")
