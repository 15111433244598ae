"""`imgtf edit complete` and `imgtf edit inpaint`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from ..options import background_option, command, file_type, option
from ..sampling import SamplingRun, sampling_run
from ..types import FiniteRange, WholeRange
from .options import Box, image_argument, record_of

FEATHER, MAX_FEATHER = 4, 1024
"""As in `pipelines.editing.fill`, which takes long to import."""


def paste_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """How kept pixels are pasted back."""
    options = [
        option(
            "--feather", type=WholeRange(0, MAX_FEATHER), metavar="N", default=FEATHER, group="images",
            help="Redrawn pixels over which the seam fades.",
        ),
        option(
            "--keep-decoded", is_flag=True, group="images",
            help="Leave the decoded image as it is: no kept pixels are pasted back.",
        ),
        background_option,
    ]  # fmt: skip
    for decorator in reversed(options):
        function = decorator(function)
    return function


@command()
@image_argument
@option(
    "--keep", type=FiniteRange(0, 1, min_open=True, max_open=True), metavar="X", default=None, default_text="0.5",
    group="images", help="Share of the rows that is kept, from the top, in whole rows of tokens.",
)  # fmt: skip
@option("--box", type=Box(), group="images", help="Keep this rectangle instead, in pixels of IMAGE.")
@paste_options
@sampling_run(4, "edits")
def complete(run: SamplingRun, image: Path, keep: float | None, **given: Any) -> None:
    """Keep the top of an image, or a rectangle, and sample the rest."""
    from ...pipelines.editing.fill import KEEP, completion

    if keep is not None and given["box"]:
        raise click.UsageError("--keep and --box exclude each other")
    given["keep"] = KEEP if keep is None else keep
    run.write(
        "edits",
        partial(completion, image=image, **given),
        record=record_of("complete", {"image": image, **given}),
    )


@command()
@image_argument
@option(
    "--mask", type=file_type, metavar="FILE", group="images",
    help="Image of the size of IMAGE, white where it is redrawn.",
)  # fmt: skip
@option("--box", type=Box(), group="images", help="Redraw this rectangle instead, in pixels of IMAGE.")
@paste_options
@sampling_run(4, "edits")
def inpaint(run: SamplingRun, image: Path, mask: Path | None, **given: Any) -> None:
    """Sample a part of an image anew, given the rest.

    Tokens with any marked pixel are redrawn; all other pixels stay as they are. Marked pixels are never read.
    """
    from ...pipelines.editing.fill import inpainting

    if (mask is None) == (given["box"] is None):
        raise click.UsageError("name what is redrawn: either --mask or --box")
    given["mask"] = mask
    run.write(
        "edits",
        partial(inpainting, image=image, **given),
        record=record_of("inpaint", {"image": image, **given}),
    )
