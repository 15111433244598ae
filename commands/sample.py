"""`imgtf sample`."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ..options import Size, size_text
from .options import command, option
from .reporting import log_to_stderr, report
from .sampling import TURNS, SamplingRun, sampling_run
from .types import ImageSize


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
@option(
    "--size",
    type=ImageSize(1, None),
    default=None,
    default_text="the trained size",
    group="images",
    help="Any other size, sampled window by window.",
)
@option("--dry-run", is_flag=True, group="output", help="Print the memory and steps it would take, and stop.")
def sample(
    run: SamplingRun, image: tuple[Path, ...], text_file: Path | None, size: Size | None, dry_run: bool
) -> None:
    """Sample images: single PNGs, a grid, and samples.json, which records how to sample them again.

    Several processes (torchrun, accelerate launch) share the work and write the same files as one.
    """
    captions = _captions(run, text_file) if text_file else {}
    of_size = {} if size is None else _of_size(size, image, dry_run)
    if dry_run:
        from ..pipelines.info import describe_sampling

        n = captions.get("n", run.n)
        plan = describe_sampling(run.model, n, run.batch_size, run.device, run.precision, **run.settings)
        report(plan, run.as_json)
        return
    run.write("samples", image=image or None, **captions, **of_size)


def _of_size(size: Size, image: tuple[Path, ...], dry_run: bool) -> dict[str, Any]:
    """Return the arguments of `SamplingRun.write` for another size than the trained one."""
    if image:
        raise click.UsageError("--size does not work with --image: use `imgtf edit translate` or `upscale`")
    if dry_run:
        raise click.UsageError("--dry-run describes samples of the trained size: leave --size out")
    from ..pipelines.editing.extend import blank

    return {"canvas_of": partial(blank, size=size), "record": {"size": size_text(size)}}


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
