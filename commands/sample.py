"""`imgtf sample`."""

from __future__ import annotations

from pathlib import Path

import click

from .options import command, option
from .reporting import report
from .sampling import TURNS, SamplingRun, sampling_run


@command()
@sampling_run(16, "samples")
@option(
    "--image",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    group="images",
    help=f"Conditioning image; {TURNS}.",
)
@option("--dry-run", is_flag=True, group="output", help="Print the memory and steps it would take, and stop.")
def sample(run: SamplingRun, image: tuple[Path, ...], dry_run: bool) -> None:
    """Sample images: single PNGs, a grid, and samples.json, which records how to sample them again.

    Several processes (torchrun, accelerate launch) share the work and write the same files as one.
    """
    if dry_run:
        from ..pipelines.info import describe_sampling

        plan = describe_sampling(run.model, run.n, run.batch_size, run.device, run.precision, **run.settings)
        report(plan, run.as_json)
        return
    run.write("samples", image=image or None)
