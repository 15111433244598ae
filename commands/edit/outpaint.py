"""`imgtf edit outpaint`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from ...options import MAX_INT, Size, size_text
from ..options import command, option
from ..sampling import SamplingRun, sampling_run
from ..types import ImageSize, WholeRange
from .fill import paste_options
from .options import image_argument, record_of


def _side_option(name: str) -> Any:
    return option(
        f"--{name}", type=WholeRange(0, MAX_INT), metavar="N", default=0, group="images",
        help=f"Pixels to add {'at the ' if name in ('top', 'bottom') else ''}{name}.",
    )  # fmt: skip


@command()
@image_argument
@_side_option("left")
@_side_option("right")
@_side_option("top")
@_side_option("bottom")
@option(
    "--size", type=ImageSize(1, None), default=None, default_text="none", group="images",
    help="Size of the whole picture instead, with the image in the centre.",
)  # fmt: skip
@paste_options
@sampling_run(4, "edits")
def outpaint(run: SamplingRun, image: Path, size: Size | None, **given: Any) -> None:
    """Continue an image beyond its borders.

    The image is not cropped. It is resized so that its shorter side is the model's; pixels are those of that scale.
    """
    from ...pipelines.editing.extend import outpainting

    sides = [given[side] for side in ("left", "right", "top", "bottom")]
    if (size is None) != any(sides):
        raise click.UsageError("name what to add: either --left, --right, --top, --bottom, or --size")
    recorded = {"image": image, "size": None if size is None else size_text(size), **given}
    run.write(
        "edits", partial(outpainting, image=image, size=size, **given), record=record_of("outpaint", recorded)
    )
