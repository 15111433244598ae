"""`imgtf sample`."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path
from typing import Any

import click

from ..prior.config import SamplingConfig
from .options import (
    command,
    device_option,
    folder_type,
    force_option,
    json_option,
    model_option,
    named,
    option,
    precision_option,
    settings_options,
)
from .reporting import log_to_stderr, report
from .types import MAX_BATCH, MAX_FIRST, MAX_IMAGES, MAX_SEED, SAMPLING_PRECISIONS, AutoOrCount, WholeRange

TURNS = "several take turns"


@command()
@option(
    "--n",
    "-n",
    type=WholeRange(1, MAX_IMAGES),
    metavar="N",
    default=16,
    group="images",
    help="Number of images.",
)
@option("--label", multiple=True, group="images", default_text="all classes", help=f"Class name; {TURNS}.")
@option("--text", multiple=True, group="images", help=f"Caption; {TURNS}.")
@option(
    "--image",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    group="images",
    help=f"Conditioning image; {TURNS}.",
)
@option(
    "--seed",
    type=WholeRange(0, MAX_SEED),
    metavar="N",
    default=0,
    group="images",
    help="Same seed, same images, at any batch size.",
)
@option(
    "--first",
    type=WholeRange(0, MAX_FIRST),
    metavar="N",
    default=0,
    group="images",
    common=False,
    help="Number of the first image in the sequence of the seed.",
)
@settings_options(SamplingConfig, owner="the model's")
@option(
    "--batch-size",
    type=AutoOrCount(MAX_BATCH),
    metavar="N",
    default="auto",
    group="device",
    help="Images at once; auto: as many as half of the free memory holds.",
)
@model_option
@option(
    "--out",
    type=folder_type,
    metavar="DIR",
    group="output",
    default_text="next free MODEL/samples/NNN",
    help="Folder for the grid and the single images.",
)
@force_option("files in a folder that is not empty")
@option("--dry-run", is_flag=True, group="output", help="Print the memory and steps it would take, and stop.")
@precision_option("bf16 where that is faster", SAMPLING_PRECISIONS)
@option(
    "--compile",
    is_flag=True,
    group="device",
    common=False,
    help="Compile the decoding steps of causal priors: faster after half a minute.",
)
@option(
    "--capture",
    is_flag=True,
    group="device",
    common=False,
    help="CUDA graphs for the decoding steps of causal priors; untested.",
)
@device_option
@json_option
def sample(
    n: int, label: tuple[str, ...], text: tuple[str, ...], image: tuple[Path, ...], seed: int, first: int,
    batch_size: int | None, model: Path, out: Path | None, force: bool, dry_run: bool, precision: str,
    compile: bool, capture: bool, device: str, as_json: bool, **given: Any,
) -> None:  # fmt: skip
    """Sample images: single PNGs, a grid, and samples.json, which records how to sample them again.

    Several processes (torchrun, accelerate launch) share the work and write the same files as one.
    """
    log_to_stderr()
    from tqdm import tqdm

    from ..pipelines.info import describe_sampling
    from ..pipelines.pipeline import Pipeline
    from ..pipelines.processes import process_group
    from ..pipelines.write import check_out, free_folder, write_samples

    settings = named(given)
    if dry_run:
        report(describe_sampling(model, n, batch_size, device, precision, **settings), as_json)
        return
    _stop_on_terminate()
    conditions = {"label": label or None, "text": text or None, "image": image or None}
    with process_group() as processes:
        if out and processes.is_first:
            check_out(out, force)
        pipeline = Pipeline.from_pretrained(
            model, processes.device(device), precision=precision, compile=compile, capture=capture
        )
        out = out or processes.gather(free_folder(model / "samples"))[0]
        total, world = n * pipeline.prior.config.tokens, processes.world
        quiet = None if processes.is_first else True
        with tqdm(total=total, desc="sample", unit="token", disable=quiet) as bar:
            grid = write_samples(
                pipeline, out, n, seed=seed, first=first, batch_size=batch_size, force=force,
                progress=lambda codes: bar.update(codes * world), processes=processes, conditions=conditions,
                settings=settings,
            )  # fmt: skip
        if processes.is_first:
            click.echo(json.dumps({"grid": str(grid), "n": n}) if as_json else grid)


def _stop_on_terminate() -> None:
    """Handle SIGTERM like Ctrl-C. Launchers send it to all processes when one fails."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
