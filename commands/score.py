"""`imgtf score`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .options import (
    background_option,
    command,
    device_option,
    folder_type,
    force_option,
    json_option,
    model_option,
    option,
    precision_option,
)
from .reporting import log_to_stderr, report
from .types import SAMPLING_PRECISIONS, WholeRange

MAX_ORDERS = 1024
TURNS = "several take turns"


@command()
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@option(
    "--label", multiple=True, metavar="NAME", group="images", default_text="none", help=f"Class; {TURNS}."
)
@option(
    "--text", multiple=True, metavar="TEXT", group="images", default_text="none", help=f"Caption; {TURNS}."
)
@option(
    "--image",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    group="images",
    default_text="none",
    common=False,
    help=f"Conditioning image; {TURNS}.",
)
@background_option
@option(
    "--orders",
    type=WholeRange(1, MAX_ORDERS),
    metavar="N",
    default=8,
    group="measurement",
    help="Orders to average over (random and masked priors).",
)
@model_option
@option(
    "--map",
    "kind",
    type=click.Choice(["unusual", "bits"]),
    default="unusual",
    group="output",
    help="Heat maps of bits above what the prior expects, or of all bits.",
)
@option(
    "--out",
    type=folder_type,
    metavar="DIR",
    group="output",
    default_text="next free MODEL/scores/NNN",
    help="Folder for the ranking and the heat maps.",
)
@force_option("files in a folder that is not empty")
@precision_option("bf16 where that is faster", SAMPLING_PRECISIONS)
@device_option
@json_option
def score(
    images: tuple[Path, ...], model: Path, out: Path | None, force: bool, kind: str, precision: str, device: str,
    as_json: bool, **given: Any,
) -> None:  # fmt: skip
    """Rank IMAGES, files or folders, from unlikely to likely, and show where each is unlikely.

    Writes scores.csv (bits per token and per pixel), a heat map of every image, and a sheet of the most unlikely ones.
    """
    log_to_stderr()
    from ..pipelines.pipeline import Pipeline
    from ..pipelines.score_files import find_images, write_scores
    from ..pipelines.write import check_out, results_in
    from ..runtime.progress import Bar
    from ..runtime.repository import results_folder

    if out:
        check_out(out, force)
    files = find_images(images)
    models = Pipeline.from_pretrained(model, device, precision=precision)
    conditions = {name: given[name] or None for name in ("label", "text", "image")}
    numbered = results_folder(model) / "scores"
    with results_in(out, numbered) as folder, Bar("score", len(files), "image") as bar:
        summary = write_scores(models, files, folder, kind, bar.update, **(given | conditions))
    report(summary, as_json)
