"""`imgtf edit upscale` and `imgtf edit translate`."""

from __future__ import annotations

from pathlib import Path

import click

from ..options import command
from ..reporting import log_to_stderr
from ..sampling import SamplingRun, sampling_run

inputs_argument = click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))


@command()
@inputs_argument
@sampling_run(1, "upscaled")
def upscale(run: SamplingRun, images: tuple[Path, ...]) -> None:
    """Enlarge IMAGES, files or folders, with a prior that was trained with --conditioning-size.

    Each image gives N results, named after it. Images larger than that size are enlarged window by window.
    """
    _run(run, images, upscale=True)


@command()
@inputs_argument
@sampling_run(1, "translated")
def translate(run: SamplingRun, images: tuple[Path, ...]) -> None:
    """Translate IMAGES, files or folders, with a prior that was trained with --conditioning-column.

    Label maps become photographs, grey images coloured ones: whatever the prior has learned. Each image gives N
    results, named after it. Its shorter side is resized to the model's; the ratio of the sides is kept.
    """
    _run(run, images, upscale=False)


def _run(run: SamplingRun, images: tuple[Path, ...], *, upscale: bool) -> None:
    from ...pipelines.editing.translate import Conditioning
    from ...pipelines.editing.translate_files import find_inputs, write_translations

    log_to_stderr()
    inputs = find_inputs(images)
    with run.prepared("upscaled" if upscale else "translated") as prepared:
        conditioning = Conditioning(prepared.pipeline, upscale=upscale)
        tokens = run.n * sum(conditioning.tokens(own.size) for own in inputs)
        with prepared.bar(tokens) as progress:
            grid = write_translations(
                prepared.pipeline, inputs, prepared.out, run.n, upscale=upscale, seed=run.seed, first=run.first,
                batch_size=run.batch_size, force=run.force, progress=progress, processes=prepared.processes,
                conditions={"label": run.label or None, "text": run.text or None}, settings=run.settings,
            )  # fmt: skip
        run.report(prepared, grid, run.n * len(inputs))
