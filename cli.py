"""The command line: parse, call one function, report. Nothing else knows click.

Heavy imports happen inside the commands, so that `imgtf --help` answers at once.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .bench.config import BenchConfig
from .data.config import DataConfig
from .errors import ImgtfError, Interrupted
from .options import build, field_types
from .pipelines.settings import collect, load_presets, option_names
from .prior.config import DTYPES, PriorConfig, PriorRecipe, SamplingConfig
from .tokenizer.config import TokenizerConfig, TokenizerRecipe
from .training.config import TrainingConfig

if TYPE_CHECKING:
    from .tokenizer.inception import Inception
    from .tokenizer.perceptual import Perceptual
    from .training.loop import TrainingResult

TOKENIZER_CLASSES = (DataConfig, TokenizerConfig, TokenizerRecipe, TrainingConfig)
PRIOR_CLASSES = (DataConfig, PriorConfig, PriorRecipe, SamplingConfig, TrainingConfig)
INTERRUPTED = 130
FOLLOWS_DATA = {
    "image_size": "the preset's, or the images' own if smaller",
    "channels": "the images' own",
    "bit_depth": "the images' own",
}

Command = Callable[..., Any]


class CommaSeparated(click.ParamType):
    """`1,2,2` to (1, 2, 2)."""

    def __init__(self, plain: type) -> None:
        self.plain = plain
        self.name = f"{plain.__name__.upper()},..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return [self.plain(part) for part in str(value).split(",") if part.strip()]
        except ValueError:
            self.fail(f"{value!r} is not a comma-separated list of {self.plain.__name__}", param, ctx)


class AutoOrCount(click.ParamType):
    """`auto` to None, or a whole number of at least 1."""

    name = "auto|N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return None if value in (None, "auto") else click.IntRange(1).convert(value, param, ctx)


def options_of(
    *classes: type, room: str | None = None, owner: str | None = None
) -> Callable[[Command], Command]:
    """Adds every field of the configuration classes as an option.

    Defaults that a preset of the `room` sets are its own; all are the `owner`'s ("the model's") where one is named.
    """
    preset_keys = {key for preset in load_presets(room).values() for key in preset} if room else set()

    def decorate(command: Command) -> Command:
        for cls in reversed(classes):
            names = option_names(cls)
            for field in reversed([f for f in dataclasses.fields(cls) if f.name in names]):
                default = "the preset's" if field.name in preset_keys else _default(field)
                if owner:
                    default = f"{owner}, else {default}"
                command = _option(cls, field, default)(command)
        return command

    return decorate


def _option(cls: type, field: dataclasses.Field[Any], default: str) -> Callable[[Command], Command]:
    plain, many, _ = field_types(cls)[field.name]
    flag = "--" + field.name.replace("_", "-")
    text = f"{field.metadata['help']}  [default: {FOLLOWS_DATA.get(field.name, default)}]"
    if plain is bool:
        return click.option(f"{flag}/--no-{flag[2:]}", field.name, default=None, help=text)
    kind = CommaSeparated(plain) if many else _click_type(plain, field)
    return click.option(flag, field.name, type=kind, default=None, help=text)


def _click_type(plain: type, field: dataclasses.Field[Any]) -> Any:
    bounds = field.metadata
    if bounds["choices"]:
        return click.Choice(bounds["choices"])
    if plain is int and bounds["minimum"] is not None:
        return click.IntRange(bounds["minimum"], bounds["maximum"])
    if plain is float and bounds["minimum"] is not None:
        return click.FloatRange(bounds["minimum"], bounds["maximum"])
    return plain


def _default(field: dataclasses.Field[Any]) -> str:
    default = field.metadata["auto"] or field.default
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, tuple):
        return ",".join(map(str, default)) or "none"
    return str(default)


model_option = click.option(
    "--model",
    type=click.Path(file_okay=False, path_type=Path),
    default="model",
    show_default=True,
    help="Folder of the model.",
)
device_option = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
precision_option = click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
    default="auto",
    show_default=True,
    help="Arithmetic of the network: auto takes bf16 where the machine is fast at it and the network wide enough.",
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="One JSON object on stdout.  [default: off]"
)


def run_options(room: str) -> Callable[[Command], Command]:
    """The options of a training command that are not settings of the run itself."""
    presets = load_presets(room)
    about = "; ".join(f"{name}: {preset['about']}" for name, preset in presets.items())

    def decorate(command: Command) -> Command:
        command = click.option(
            "--force", is_flag=True, help=f"Replace the {room} that is there.  [default: off]"
        )(command)
        command = click.option(
            "--resume",
            is_flag=True,
            help="Go on from the last saved state with the settings of that run.  [default: off]",
        )(command)
        command = click.option(
            "--config",
            type=click.Path(dir_okay=False, path_type=Path),
            help="TOML file with settings by option name; the command line wins.  [default: none]",
        )(command)
        command = click.option(
            "--preset", type=click.Choice(list(presets)), help=f"{about}.  [default: tiny]"
        )(command)
        return model_option(command)

    return decorate


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="imgtf")
def cli() -> None:
    """Train a tokenizer on your images, train a prior on its tokens, and sample new images.

    \b
    imgtf tokenizer train --data my-images
    imgtf prior train
    imgtf sample --n 64 --top-k 100

    Without --data, the built-in handwritten digits are used.
    """


@cli.group()
def tokenizer() -> None:
    """Stage one: images to a grid of tokens and back."""


@cli.group()
def prior() -> None:
    """Stage two: the transformer that learns the grids."""


@tokenizer.command("train")
@run_options("tokenizer")
@options_of(*TOKENIZER_CLASSES, room="tokenizer")
def tokenizer_train(model: Path, config: Path | None, resume: bool, force: bool, **given: Any) -> None:
    """Train the tokenizer on images."""
    given = _named(given)
    config = config or _resumed(model / "tokenizer", resume)
    settings = collect("tokenizer", TOKENIZER_CLASSES, given, config)
    _speak()
    from .pipelines.train import train_tokenizer

    _report_run(model / "tokenizer", train_tokenizer(model, settings, resume=resume, force=force))


@prior.command("train")
@run_options("prior")
@options_of(*PRIOR_CLASSES, room="prior")
def prior_train(model: Path, config: Path | None, resume: bool, force: bool, **given: Any) -> None:
    """Train the prior on the tokenizer's codes, encoding the images first where that was not done.

    Without --data, the images that the tokenizer was trained on are used. The sampling options are what
    `imgtf sample` then does unless told otherwise.
    """
    given = _named(given)
    config = config or _resumed(model / "prior", resume)
    settings = collect("prior", PRIOR_CLASSES, given, config, inherit=model / "tokenizer" / "train.toml")
    _speak()
    from .pipelines.train import train_prior

    _report_run(model / "prior", train_prior(model, settings, resume=resume, force=force))


@tokenizer.command("encode")
@model_option
@options_of(DataConfig, owner="the run's")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="Folder.  [default: MODEL/codes]"
)
@click.option("--mirrored", is_flag=True, help="Encode every image mirrored as well.  [default: off]")
@click.option(
    "--crops-per-image",
    type=click.IntRange(1, 1000),
    default=1,
    show_default=True,
    help="Crops of each training image: its middle, and others at random places (--crop random).",
)
@precision_option
@device_option
def tokenizer_encode(
    model: Path, out: Path | None, mirrored: bool, views: int, precision: str, device: str, **given: Any
) -> None:
    """Write the tokens of a data set to disk, as `prior train` reads them."""
    data = _data(model, given)
    _speak()
    from .data.source import open_source
    from .pipelines.encode import encode
    from .runtime.device import pick_device
    from .tokenizer.model import Tokenizer

    loaded = Tokenizer.from_pretrained(model / "tokenizer", pick_device(device))
    for source, crops in zip(open_source(data), (views, 1), strict=True):  # one crop is measured on
        if len(source):
            folder = out or model / "codes"
            click.echo(encode(loaded, source, data, folder, flips=mirrored, views=crops, precision=precision))


@tokenizer.command("eval")
@model_option
@options_of(DataConfig, owner="the run's")
@click.option(
    "--lpips-backbone",
    type=click.Choice(["vgg", "alex", "squeeze"]),
    help="Network for LPIPS and the Frechet distance, downloaded if need be.  [default: one that is there already]",
)
@click.option(
    "--rfid",
    is_flag=True,
    help="Get Inception-v3's weights for rFID.  [default: rFID only where they are there]",
)
@click.option(
    "--inception-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File with Inception-v3's weights, as torch-fidelity publishes them.  [default: in $TORCH_HOME]",
)
@precision_option
@device_option
@json_option
def tokenizer_eval(
    model: Path, lpips_backbone: str | None, rfid: bool, inception_file: Path | None, precision: str,
    device: str, as_json: bool, **given: Any,
) -> None:  # fmt: skip
    """Measure the tokenizer on held-out images: PSNR in dB, SSIM, LPIPS, rFID, codebook usage and perplexity."""
    data = _data(model, given)
    _speak()
    from .data.source import open_source
    from .pipelines.evaluate import evaluate_tokenizer
    from .runtime.device import pick_device
    from .tokenizer.model import Tokenizer

    loaded = Tokenizer.from_pretrained(model / "tokenizer", pick_device(device))
    held_out = open_source(data)[1]
    networks = _perceptual(lpips_backbone), _inception(rfid, inception_file)
    for network in networks:
        if network is not None:
            network.to(loaded.device)
    _report(evaluate_tokenizer(loaded, held_out, data, *networks, precision), as_json)


@tokenizer.command("reconstruct")
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder for the PNGs."
)
@model_option
@click.option("--background", default="white", show_default=True, help="Colour under transparent pixels.")
@precision_option
@device_option
def tokenizer_reconstruct(
    images: tuple[Path, ...], out: Path, model: Path, background: str, precision: str, device: str
) -> None:
    """Draw each image beside what is left of it after encoding and decoding."""
    _speak()
    from .pipelines.evaluate import reconstruct
    from .runtime.device import pick_device
    from .tokenizer.model import Tokenizer

    loaded = Tokenizer.from_pretrained(model / "tokenizer", pick_device(device))
    for path in reconstruct(loaded, images, out, background, precision):
        click.echo(path)


@prior.command("eval")
@model_option
@options_of(DataConfig, owner="the run's")
@click.option(
    "--orders",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Random orders an image is averaged over (random and masked priors).",
)
@click.option(
    "--dtype",
    type=click.Choice(DTYPES),
    default="fp32",
    show_default=True,
    help="Measure the prior as it samples in this type.",
)
@device_option
@json_option
def prior_eval(model: Path, orders: int, dtype: str, device: str, as_json: bool, **given: Any) -> None:
    """Measure the prior on held-out images: bits per token and per pixel, in all and by class."""
    data = _data(model, given, "prior")
    _speak()
    from .data.source import open_source
    from .pipelines.evaluate import evaluate_prior
    from .pipelines.pipeline import Pipeline

    pair = Pipeline.from_pretrained(model, device, dtype=dtype)
    held_out = open_source(data)[1]
    _report(evaluate_prior(model, pair.tokenizer, pair.prior, held_out, data, orders=orders), as_json)


@cli.command()
@click.option("--n", "-n", type=click.IntRange(1), default=16, show_default=True, help="Number of images.")
@click.option(
    "--label", multiple=True, help="Class by name; several take turns.  [default: all classes, spread evenly]"
)
@click.option("--text", multiple=True, help="Caption; several take turns.  [default: none]")
@click.option(
    "--source",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Picture to start from, for priors that read one; several take turns.  [default: none]",
)
@options_of(SamplingConfig, owner="the model's")
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Which images: same seed, same images.",
)
@click.option(
    "--first",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Number of the first image of that seed.",
)
@click.option(
    "--batch-size",
    type=AutoOrCount(),
    help="Images sampled at once; changes the speed and the memory only.  "
    "[default: auto, what fits in half of the free memory]",
)
@model_option
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder.  [default: the next free MODEL/samples/NNN]",
)
@click.option("--force", is_flag=True, help="Write into a folder that already holds samples.  [default: off]")
@click.option(
    "--dry-run", is_flag=True, help="Say what it would take, in memory above all, and stop.  [default: off]"
)
@click.option(
    "--dtype",
    type=click.Choice(DTYPES),
    default="fp32",
    show_default=True,
    help="What the prior samples in: bf16 is faster where the machine has it, int8 (weights alone) takes half of its "
    "memory; both make other images than fp32.",
)
@click.option(
    "--compile",
    is_flag=True,
    help="Run the steps of causal priors compiled: faster after half a minute; the same images in fp32 but for "
    "rounding. Masked priors and several codes a step run as without.  [default: off]",
)
@click.option(
    "--capture/--no-capture",
    default=True,
    show_default=True,
    help="On a CUDA GPU: capture the steps of causal priors as CUDA graphs and replay them. A batch's memory is then "
    "kept for the next.",
)
@device_option
@json_option
def sample(
    n: int, label: tuple[str, ...], text: tuple[str, ...], source: tuple[Path, ...], seed: int, first: int,
    batch_size: int | None, model: Path, out: Path | None, force: bool, dry_run: bool, dtype: str, compile: bool,
    capture: bool, device: str, as_json: bool, **given: Any,
) -> None:  # fmt: skip
    """Sample images: single PNGs, a labelled grid, and a samples.json to make any of them again.

    Started in several processes (torchrun, accelerate launch), each makes a share of the batches; the files are
    the same whatever the number of processes.
    """
    _speak()
    from tqdm import tqdm

    from .data.decode import load_image
    from .pipelines.info import describe_sampling
    from .pipelines.pipeline import Pipeline
    from .pipelines.processes import joined
    from .pipelines.write import free_folder, write_samples

    if dry_run:
        _report(describe_sampling(model, n, batch_size, device, dtype, **_named(given)), as_json)
        return
    sources = [load_image(str(path), str(path)) for path in source]
    _stop_on_terminate()
    with joined() as processes:
        pipeline = Pipeline.from_pretrained(
            model, processes.device(device), dtype=dtype, compile=compile, capture=capture
        )
        out = out or processes.gather(free_folder(model / "samples"))[0]
        total, world = n * pipeline.prior.config.tokens, processes.world
        quiet = None if processes.is_first else True
        with tqdm(total=total, desc="sample", unit="token", disable=quiet) as bar:
            grid = write_samples(
                pipeline, out, n, label or None, text=text or None, source=sources or None, seed=seed, first=first,
                batch_size=batch_size, force=force,
                progress=lambda drawn: bar.update(drawn * world), processes=processes, **_named(given),
            )  # fmt: skip
        if processes.is_first:
            click.echo(json.dumps({"grid": str(grid), "n": n}) if as_json else grid)


@cli.command("import")
@click.argument("family", type=click.Choice(["auto", "llamagen", "taming"]))
@click.argument("files", nargs=-1, required=True, type=click.Path(dir_okay=False, path_type=Path))
@model_option
@click.option(
    "--stage",
    type=click.Choice(["tokenizer", "prior"]),
    help="Only this one of a file with both.  [default: all]",
)
@click.option(
    "--heads",
    type=click.IntRange(1),
    help="Attention heads of the prior.  [default: as published for its width]",
)
@click.option(
    "--image-size",
    type=click.IntRange(4),
    help="Side of the images in pixels.  [default: the YAML's, the tokenizer's, or 256]",
)
@click.option(
    "--classes", type=click.IntRange(0), help="Labels of a taming prior; 0 for none.  [default: the YAML's]"
)
@click.option("--force", is_flag=True, help="Replace what is there.  [default: off]")
def import_command(family: str, files: tuple[Path, ...], model: Path, **given: Any) -> None:
    """Turn published weights into a model folder.

    FILES are .pt, .pth, .ckpt or .safetensors, each followed by its YAML where it has one. Nothing in them is
    run; `auto` recognises the family by the names of the tensors.
    """
    _speak()
    from .pipelines.exchange import import_weights

    for folder in import_weights(family, files, model, **given):
        click.echo(folder)


@cli.command("export")
@click.argument("family", type=click.Choice(["llamagen", "taming"]))
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@model_option
@click.option(
    "--stage",
    type=click.Choice(["tokenizer", "prior"]),
    help="Which one.  [default: the only one there]",
)
@click.option("--force", is_flag=True, help="Replace the file.  [default: off]")
def export_command(family: str, file: Path, model: Path, stage: str | None, force: bool) -> None:
    """Write a model as FILE (.safetensors) under the names that a published code base reads."""
    _speak()
    from .pipelines.exchange import export_weights

    click.echo(export_weights(family, model, file, stage=stage, force=force))


@cli.command()
@click.option(
    "--model",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of a trained model to measure.  [default: a preset with random weights]",
)
@click.option(
    "--preset",
    type=click.Choice(list(load_presets("prior"))),
    help="Sizes of networks with random weights.  [default: tiny]",
)
@options_of(BenchConfig, DataConfig)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File for the tables: written as .md and as .json.  [default: none]",
)
@click.option("--force", is_flag=True, help="Replace the files of --out.  [default: off]")
@device_option
@json_option
def bench(
    model: Path | None, preset: str | None, out: Path | None, force: bool, device: str, as_json: bool, **given: Any
) -> None:  # fmt: skip
    """Measure how fast models sample, train and code on this machine, and how far that is from its limits.

    The machine should be doing nothing else. Loading is measured on the images of --data, where they are named.
    """
    if model and preset:
        raise click.UsageError("--model and --preset exclude each other")
    named = _named(given)
    data = collect("tokenizer", (DataConfig,), _of(DataConfig, named)).part(DataConfig)
    config = build(BenchConfig, _of(BenchConfig, named), "bench")
    _speak()
    from .bench.report import save, targets, to_markdown
    from .bench.run import bench as measure

    if out:
        targets(out, force)
    report = measure(
        config, model=model, preset=preset or "tiny", data=data if "data" in named else None, device=device
    )
    click.echo(json.dumps(report) if as_json else to_markdown(report), nl=as_json)
    if out:
        for path in save(report, out, force):
            click.echo(path, err=True)


@cli.command()
@click.argument("folder", default="model", type=click.Path(file_okay=False, path_type=Path))
@json_option
def info(folder: Path, as_json: bool) -> None:
    """Say what a model folder holds: sizes, classes, parameters, and the memory that sampling takes."""
    _speak()
    from .pipelines.info import describe_model

    _report(describe_model(folder), as_json)


def main(arguments: list[str] | None = None) -> None:
    """Entry point: runs a command and turns every expected error into one line and an exit code."""
    try:
        code = cli.main(arguments, prog_name="imgtf", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except Interrupted as error:
        _fail(f"Interrupted: {error}; go on with the same command and --resume", INTERRUPTED)
    except (KeyboardInterrupt, click.Abort):
        _fail("Interrupted.", INTERRUPTED)
    except ImgtfError as error:
        _fail(f"Error: {error}", 1)
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"Error: {where}{error.strerror or error}", 1)


def _fail(line: str, code: int) -> None:
    click.echo(" ".join(line.split()), err=True)
    sys.exit(code)


def _named(given: dict[str, Any]) -> dict[str, Any]:
    """Only what was given on the command line."""
    return {name: value for name, value in given.items() if value is not None}


def _of(cls: type, given: dict[str, Any]) -> dict[str, Any]:
    """Of what was given, the settings of one class."""
    return {name: value for name, value in given.items() if name in option_names(cls)}


def _resumed(folder: Path, resume: bool) -> Path | None:
    """The settings of the run to go on with, where there are any."""
    path = folder / "train.toml"
    return path if resume and path.exists() else None


def _data(model: Path, given: dict[str, Any], room: str = "tokenizer") -> DataConfig:
    """The data options of a command that works on a trained model: by default the data it was trained on."""
    runs = [model / each / "train.toml" for each in (room, "tokenizer")]
    inherit = next((run for run in runs if run.exists()), None)
    return collect("tokenizer", (DataConfig,), _named(given), inherit=inherit).part(DataConfig)


def _perceptual(backbone: str | None) -> Perceptual | None:
    """LPIPS where it can be had; else a line says what it lacks."""
    from .tokenizer.perceptual import Perceptual, local_backbone

    backbone = backbone or local_backbone()
    if backbone is None:
        click.echo(
            "LPIPS left out: no backbone's weights in torch's cache; --lpips-backbone gets one", err=True
        )
    return Perceptual(backbone) if backbone else None


def _inception(wanted: bool, file: Path | None) -> Inception | None:
    """Inception where it can be had; else a line says what rFID lacks, and the other figures are none the worse."""
    from .errors import CheckpointError
    from .tokenizer.inception import Inception, local_file

    if file is not None:
        return Inception(file)
    if not wanted and local_file() is None:
        click.echo("rFID left out: no Inception-v3 weights; --rfid or --inception-file gets them", err=True)
        return None
    try:
        return Inception()
    except CheckpointError as error:
        click.echo(f"rFID left out: {error}", err=True)
        return None


def _report(figures: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(figures))
        return
    for name, value in figures.items():
        if isinstance(value, dict):
            click.echo(f"{name}:")
            for key, inner in value.items():
                click.echo(f"  {key:<22} {_plain(inner)}")
        else:
            click.echo(f"{name:<24} {_plain(value)}")


def _plain(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _is_first_process() -> bool:
    """Of several started together (accelerate launch, torchrun) only one talks."""
    return os.environ.get("RANK", "0") == "0"


def _stop_on_terminate() -> None:
    """SIGTERM, which launchers send to the rest when one process fails, ends as cleanly as Ctrl-C."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def _report_run(folder: Path, outcome: TrainingResult) -> None:
    if not _is_first_process():
        return
    figures = ", ".join(f"{k} {v:.4g}" for k, v in outcome.figures.items())
    click.echo(
        f"{folder} (best at step {outcome.best_step} of {outcome.steps}: {figures or 'no held-out images'})"
    )


def _speak() -> None:
    """Sends the library's log to stderr, around the progress bar."""
    from tqdm import tqdm

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            tqdm.write(self.format(record), file=sys.stderr)

    logger = logging.getLogger("imgtf")
    logger.handlers = [Lines()]
    logger.setLevel(logging.INFO if _is_first_process() else logging.ERROR)
    logger.propagate = False


if __name__ == "__main__":
    main()
