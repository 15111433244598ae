"""`imgtf edit vary` and `imgtf edit mix`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..options import background_option, command, option
from ..sampling import SamplingRun, sampling_run
from ..types import FiniteRange, WholeRange
from .options import image_argument, image_type, record_of

if TYPE_CHECKING:
    from ...pipelines.canvas import Canvas
    from ...pipelines.models import Models

CHOICES = ("least-likely", "random")
MAX_STEPS = 99
"""As in `pipelines.editing`, which takes long to import."""


@command()
@image_argument
@option(
    "--strength",
    type=FiniteRange(0, 1, min_open=True),
    metavar="X",
    default=0.3,
    group="images",
    help="Share of the tokens that is sampled anew.",
)
@option(
    "--choose",
    type=click.Choice(CHOICES),
    default="least-likely",
    group="images",
    help="Which tokens: those that the prior finds least likely, or any.",
)
@background_option
@sampling_run(4, "edits")
def vary(run: SamplingRun, image: Path, **given: Any) -> None:
    """Sample some tokens of an image anew, given the others.

    The results are decoded images. With --label or --text, tokens are likely or not under the first one.
    """
    from ...pipelines.editing.variation import variation

    def canvas_of(models: Models) -> Canvas:
        return variation(models, image, seed=run.seed, **first_condition(run), **given)

    run.write("edits", canvas_of, record=record_of("vary", {"image": image, **given}))


@command()
@click.argument("a", type=image_type)
@click.argument("b", type=image_type)
@option(
    "--steps",
    type=WholeRange(2, MAX_STEPS),
    metavar="N",
    default=8,
    group="images",
    help="Images of a strip, A and B among them.",
)
@option(
    "--strength",
    type=FiniteRange(0, 1),
    metavar="X",
    default=0.3,
    group="images",
    help="Share of the tokens that is sampled anew halfway; none at the ends.",
)
@background_option
@sampling_run(1, "edits")
def mix(run: SamplingRun, a: Path, b: Path, **given: Any) -> None:
    """Go from image A to image B through their tokens; -n is the number of strips.

    From step to step more tokens are those of B. Of each mixture the least likely tokens are sampled anew.
    """
    from ...pipelines.editing.mixing import mixing

    def canvases_of(models: Models) -> list[Canvas]:
        return mixing(models, a, b, **first_condition(run), **given)

    run.write("edits", canvases_of, record=record_of("mix", {"images_mixed": [str(a), str(b)], **given}))


def first_condition(run: SamplingRun) -> dict[str, Any]:
    """The first label and the first caption that were given."""
    return {name: own[0] for name, own in (("label", run.label), ("text", run.text)) if own}
