"""`imgtf tokenizer`: train, tune-decoder, encode, eval, reconstruct."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..data.config import DataConfig
from ..pipelines.decoder_settings import OF_MACHINE, RATE, SCALED, STEPS, decoder_settings
from ..pipelines.files import run_file
from ..pipelines.settings import (
    CACHE_CLASSES,
    DECODER_CLASSES,
    INHERITED_CLASSES,
    NOT_OF_DECODER,
    TOKENIZER_CLASSES,
    collect,
    collect_for_model,
)
from ..prior.recipe import CacheRecipe
from ..tokenizer.recipe import DecoderRecipe
from .command import Group
from .options import (
    FOLLOWS_DATA,
    background_option,
    device_option,
    file_type,
    folder_type,
    force_option,
    json_option,
    named,
    option,
    precision_option,
    reads_model,
    run_options,
    settings_options,
)
from .reporting import log_to_stderr, report, report_files, report_run
from .types import Names

if TYPE_CHECKING:
    from ..tokenizer.inception import Inception
    from ..tokenizer.model import Tokenizer
    from ..tokenizer.perceptual import Perceptual

logger = logging.getLogger("imgtf")
AUTO = "bf16 where the hardware has it"
OF_DECODER = {
    "steps": f"{STEPS:.0%} of the tokenizer's run",
    "lr": f"{RATE:.0%} of that of the tokenizer's run",
    "code_noise": f"{DecoderRecipe.code_noise:g}",
    "codes_from_prior": "off",
    **dict.fromkeys(OF_MACHINE, "auto"),
    **dict.fromkeys(SCALED, "as in the tokenizer's run, by the number of steps"),
    **dict.fromkeys(("minutes", "max_minutes", "step_plan"), "none"),
}
"""Defaults of `tune-decoder` in words."""


@click.group(cls=Group)
def tokenizer() -> None:
    """Stage one: encode images to grids of tokens and decode them."""


@tokenizer.command()
@run_options("tokenizer")
@settings_options(*TOKENIZER_CLASSES, stage="tokenizer", defaults=FOLLOWS_DATA)
def train(
    model: Path, resume: bool, resume_from: int | None, force: bool, as_json: bool, **given: Any
) -> None:
    """Train the tokenizer on images."""
    started = time.monotonic()
    run = model / "tokenizer" / "train.toml"
    config = run if resume and run.exists() else None
    settings = collect("tokenizer", TOKENIZER_CLASSES, named(given), config, default="auto")
    log_to_stderr()
    from ..pipelines.train import train_tokenizer

    result = train_tokenizer(
        model, settings, resume=resume, force=force, resume_from=resume_from, started=started
    )
    report_run(model / "tokenizer", result, as_json)


@tokenizer.command("tune-decoder")
@run_options("decoder run", preset=False)
@settings_options(
    *DECODER_CLASSES, owner="as in the tokenizer's run", defaults=OF_DECODER, but=NOT_OF_DECODER
)
def tune(
    model: Path, resume: bool, resume_from: int | None, force: bool, as_json: bool, **given: Any
) -> None:
    """Train the decoder alone, so that it hides mistakes of a prior. Codes, prior and token caches stay valid.

    The encoder and the codebook are frozen. The weights are kept only where held-out images get better.
    """
    started = time.monotonic()
    run = run_file(model, "decoder")
    settings = decoder_settings(model, named(given), run if resume and run.exists() else None)
    log_to_stderr()
    from ..pipelines.tune import tune_decoder

    result = tune_decoder(
        model, settings, resume=resume, force=force, resume_from=resume_from, started=started
    )
    report_run(model / "tokenizer", result, as_json)


@tokenizer.command()
@reads_model("tokenizer")
@settings_options(*INHERITED_CLASSES, owner="the run's")
@settings_options(CacheRecipe)
@option(
    "--out",
    type=folder_type,
    metavar="DIR",
    group="output",
    default_text="MODEL/codes",
    help="Folder of the token caches.",
)
@precision_option(AUTO)
@device_option
@json_option
def encode(model: Path, out: Path | None, precision: str, device: str, as_json: bool, **given: Any) -> None:
    """Encode a data set to the token caches that `prior train` reads.

    `prior train` encodes by itself where it finds no cache. Use the same data options for both. Several processes
    share the work.
    """
    settings = collect_for_model(model, CACHE_CLASSES, named(given))
    log_to_stderr()
    from ..pipelines.prior_data import CODES_FOLDER, encode_data
    from ..pipelines.processes import process_group
    from ..runtime.repository import results_folder

    out = out or results_folder(model) / CODES_FOLDER
    with process_group() as processes:
        caches = encode_data(
            model, settings, out=out, precision=precision, device=device, processes=processes
        )
    if processes.is_first:
        report_files("caches", caches, as_json)


@tokenizer.command("eval")
@reads_model("tokenizer")
@settings_options(DataConfig, owner="the run's")
@option(
    "--lpips-backbone",
    type=click.Choice(["vgg", "alex", "squeeze"]),
    group="measurement",
    default_text="one in torch's cache",
    help="Backbone of LPIPS; downloaded when named.",
)
@option("--rfid", is_flag=True, group="measurement", help="Download Inception-v3 for rFID if it is missing.")
@option(
    "--inception-file",
    type=file_type,
    metavar="FILE",
    group="measurement",
    default_text="in $TORCH_HOME",
    help="Weights of Inception-v3 as torch-fidelity publishes them.",
)
@option(
    "--features",
    type=Names(),
    metavar="NAME,...",
    group="measurement",
    help="Distances in these features too: inception, squeeze, alex, vgg, classifier.",
)
@option(
    "--cache",
    type=folder_type,
    metavar="DIR",
    group="measurement",
    default_text="~/.cache/imgtf",
    common=False,
    help="Folder of classifiers.",
)
@precision_option(AUTO)
@device_option
@json_option
def evaluate(
    model: Path, lpips_backbone: str | None, rfid: bool, inception_file: Path | None, features: str | None,
    cache: Path | None, precision: str, device: str, as_json: bool, **given: Any,
) -> None:  # fmt: skip
    """Measure reconstructions of held-out images: PSNR in dB, SSIM, LPIPS, rFID, codebook usage and perplexity."""
    data = collect_for_model(model, (DataConfig,), named(given)).part(DataConfig)
    log_to_stderr()
    from ..data.source import open_source
    from ..evaluation.features import check_features
    from ..pipelines.evaluate import evaluate_tokenizer
    from ..pipelines.judge import JudgeOptions, feature_networks

    check_features(features or "auto")
    loaded = _load(model, device)
    networks = _perceptual(lpips_backbone), _inception(rfid, inception_file)
    for network in networks:
        if network is not None:
            network.to(loaded.device)
    sources = open_source(data)
    options = JudgeOptions(features or (), cache=cache, inception_file=inception_file)
    size, channels = loaded.config.size, loaded.config.channels
    others = feature_networks(sources, data, size, channels, loaded.device, options) if features else []
    report(evaluate_tokenizer(loaded, sources[1], data, *networks, precision, others), as_json)


@tokenizer.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@option("--out", required=True, type=folder_type, metavar="DIR", group="output", help="Folder for the PNGs.")
@force_option("files in --out")
@reads_model("tokenizer")
@background_option
@option(
    "--full-size",
    is_flag=True,
    group="images",
    help="Code images at their own size, in tiles: no crop, no resize.",
)
@precision_option(AUTO)
@device_option
@json_option
def reconstruct(
    images: tuple[Path, ...], out: Path, force: bool, model: Path, background: str, full_size: bool, precision: str,
    device: str, as_json: bool,
) -> None:  # fmt: skip
    """Encode and decode IMAGES. Each PNG shows an image and its reconstruction side by side."""
    log_to_stderr()
    from ..pipelines.evaluate import reconstruct as write_reconstructions
    from ..pipelines.files import check_files, reconstruction_files

    check_files(reconstruction_files(images, out), force)
    paths = write_reconstructions(
        _load(model, device), images, out, background, precision, full_size=full_size
    )
    report_files("files", paths, as_json)


def _load(model: Path, device: str) -> Tokenizer:
    from ..runtime.device import pick_device
    from ..tokenizer.model import Tokenizer

    return Tokenizer.from_pretrained(model / "tokenizer", pick_device(device))


def _perceptual(backbone: str | None) -> Perceptual | None:
    """LPIPS, or None with a line in the log where its weights are missing."""
    from ..tokenizer.perceptual import Perceptual, local_backbone

    backbone = backbone or local_backbone()
    if backbone is None:
        logger.info("no LPIPS: torch's cache has no weights of a backbone; --lpips-backbone downloads one")
    return Perceptual(backbone) if backbone else None


def _inception(wanted: bool, file: Path | None) -> Inception | None:
    """Inception-v3, or None with a line in the log where its weights are missing."""
    from ..errors import CheckpointError
    from ..tokenizer.inception import Inception, local_file

    if file is not None:
        return Inception(file)
    if not wanted and local_file() is None:
        logger.info("no rFID: the weights of Inception-v3 are missing; --rfid downloads them")
        return None
    try:
        return Inception()
    except CheckpointError as error:
        logger.warning("no rFID: %s", error)
        return None
