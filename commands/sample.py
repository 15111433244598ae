"""`imgtf sample`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from .options import command, option
from .reporting import log_to_stderr, report
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
@option(
    "--text-file",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    metavar="FILE",
    group="images",
    default_text="none",
    help="Captions, one a line; - is stdin. -n is images per line, default 1.",
)
@option("--dry-run", is_flag=True, group="output", help="Print the memory and steps it would take, and stop.")
def sample(run: SamplingRun, image: tuple[Path, ...], text_file: Path | None, dry_run: bool) -> None:
    """Sample images: single PNGs, a grid, and samples.json, which records how to sample them again.

    Several processes (torchrun, accelerate launch) share the work and write the same files as one.
    """
    captions = _captions(run, text_file) if text_file else {}
    if dry_run:
        from ..pipelines.info import describe_sampling

        n = captions.get("n", run.n)
        plan = describe_sampling(run.model, n, run.batch_size, run.device, run.precision, **run.settings)
        report(plan, run.as_json)
        return
    run.write("samples", image=image or None, **captions)


def _captions(run: SamplingRun, file: Path) -> dict[str, Any]:
    """Return the arguments of `SamplingRun.write` for the captions of a file: their number, names and text."""
    if run.text:
        raise click.UsageError("--text and --text-file exclude each other")
    if str(file) == "-" and os.environ.get("WORLD_SIZE", "1") != "1":
        raise click.UsageError("--text-file - works with one process; name a file")
    log_to_stderr()
    from ..pipelines.caption_file import caption_files, read_captions
    from ..pipelines.names import from_first

    default = click.get_current_context().get_parameter_source("n") is ParameterSource.DEFAULT
    each = 1 if default else run.n
    with click.open_file(str(file), "rb") as opened:
        captions = read_captions(opened.read(), "stdin" if str(file) == "-" else str(file))
    texts = [caption for caption in captions for _ in range(each)]
    names = caption_files(captions, each)
    return {"n": len(texts), "names": names, "text": from_first(texts, run.first)}
