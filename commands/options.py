"""Options that several commands share, and options made from configuration classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from functools import partial, wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import click
from click.core import ParameterSource

from ..options import MAX_INT, bounds, field_types, is_size
from ..pipelines.settings import AUTO, load_presets, option_names
from .command import Command, Option
from .reporting import log_to_stderr
from .types import PRECISIONS, CommaSeparated, Device, FiniteRange, ImageSize, Preset, WholeRange, WordOrCount

F = TypeVar("F", bound=Callable[..., Any])
FOLLOWS_DATA = {
    "image_size": "preset, or the images' typical side if smaller",
    "channels": "the images' own",
    "bit_depth": "the images' own",
}
"""Defaults that depend on the images."""
PATHS = {
    "data": "SRC",
    "init_from": "DIR",
    "conditioning_model": "DIR",
    "text_encoder": "NAME|DIR",
    "lpips_file": "FILE",
}
"""Settings that can be a path, and how the help shows their values."""
SHORT_NAMES = {"gradient_accumulation_steps": "--accumulate"}
"""Second names of options."""
MODEL_HELP = "Folder of the model, or its id on the Hub: user/model[@revision]."

command = partial(click.command, cls=Command)
option = partial(click.option, cls=Option)
folder_type = click.Path(file_okay=False, path_type=Path)
file_type = click.Path(dir_okay=False, path_type=Path)
name_type = click.Path(file_okay=False)
"""A folder or an id of the Hub, as text: `./a/b` is a folder, `a/b` may be either."""

_model_name: dict[str, Any] = {"default": "model", "group": "run"}
own_model_option = option(
    "--model", type=folder_type, metavar="DIR", **_model_name, help="Folder of the model."
)
"""Of commands that write into the model folder."""


def reads_model(*parts: str) -> Callable[[F], F]:
    """`--model` of a command that only reads: a folder, or an id of the Hub, whose `parts` are downloaded."""

    def decorate(function: F) -> F:
        @wraps(function)
        def call(model: str, **given: Any) -> Any:
            return function(model=local_model(model, parts), **given)

        return cast(
            F, option("--model", type=name_type, metavar="DIR|ID", **_model_name, help=MODEL_HELP)(call)
        )

    return decorate


def local_model(model: str, parts: tuple[str, ...] = ()) -> Path:
    """Return the folder of a model. An id of the Hub is downloaded, after a line that says what and from where."""
    from ..runtime.repository import PARTS, model_folder, parse_id

    if parse_id(model):
        log_to_stderr()
    return model_folder(model, parts=parts or PARTS)


model_option = reads_model()
device_option = option(
    "--device",
    type=Device(),
    metavar="NAME",
    default="auto",
    group="device",
    help="auto, cpu, cuda or cuda:N.",
)
background_option = option(
    "--background", metavar="COLOUR", default="white", group="images", common=False,
    help="Colour behind transparent pixels, a name or #rrggbb.",
)  # fmt: skip
json_help: dict[str, Any] = {"is_flag": True, "group": "output", "help": "Print one JSON object."}
json_option = option("--json", "as_json", **json_help)


def force_option(what: str, group: str = "output") -> Callable[[F], F]:
    """`--force`; `what` names what it replaces."""
    return option("--force", is_flag=True, group=group, help=f"Replace {what}.")


def precision_option(auto: str, choices: tuple[str, ...] = PRECISIONS) -> Callable[[F], F]:
    """`--precision`; `auto` says what auto stands for."""
    names = f"auto ({auto}), {', '.join(choices[1:-1])} or {choices[-1]}."
    return option(
        "--precision", type=click.Choice(choices), metavar="NAME", default="auto", group="device", help=names
    )


def preset_option(stage: str, auto: bool = False) -> Callable[[F], F]:
    """`--preset` with the presets of a stage, and `auto` where images choose among them."""
    about = {name: preset["about"] for name, preset in load_presets(stage).items()}
    if auto:
        about = {AUTO: "by the images, the device and the time (--minutes); says what it picks"} | about
    return option(
        "--preset", type=Preset(about), metavar="NAME", group="run", default_text=AUTO if auto else "tiny",
        help="Sizes and settings, see below.",
    )  # fmt: skip


def run_options(stage: str, preset: bool = True) -> Callable[[F], F]:
    """Options of a training command that are not settings of the run; `preset`: whether it has presets."""

    def decorate(function: F) -> F:
        function = option("--json", "as_json", common=False, **json_help)(function)
        function = force_option(f"the {stage} in the model folder", "run")(function)
        function = option(
            "--resume",
            is_flag=True,
            group="run",
            help="Continue the last run from its saved state and settings.",
        )(function)
        function = option(
            "--resume-from", type=WholeRange(1, MAX_INT), metavar="STEP", group="run", common=False,
            default_text="the newest", help="Continue from the saved state of this step; later ones are dropped.",
        )(_resume_or_force(function))  # fmt: skip
        return own_model_option(preset_option(stage, auto=True)(function) if preset else function)

    return decorate


def _resume_or_force(function: Callable[..., Any]) -> Any:
    """Let `--resume-from` imply `--resume`, and raise a usage error where `--force` is given too."""

    @wraps(function)
    def call(resume: bool, resume_from: int | None, force: bool, **given: Any) -> Any:
        if force and (resume or resume_from is not None):
            flag = "--resume" if resume_from is None else "--resume-from"
            raise click.UsageError(
                f"{flag} goes on with the run that --force would replace: leave one of them out"
            )
        return function(
            resume=resume or resume_from is not None, resume_from=resume_from, force=force, **given
        )

    return call


def settings_options(
    *classes: type,
    stage: str | None = None,
    owner: str | None = None,
    defaults: Mapping[str, str] = {},
    common: bool = True,
    but: tuple[str, ...] = (),
) -> Callable[[F], F]:
    """Add an option for every field of the configuration classes.

    Args:
        stage: whose presets set defaults; the help then says "preset".
        owner: where the defaults come from, such as "the model's".
        defaults: defaults in words, by option, where the command has its own.
        common: False leaves all of them to `--help-all`.
        but: fields that are no options of the command.
    """
    preset_keys = {key for preset in load_presets(stage).values() for key in preset} if stage else set()

    def decorate(function: F) -> F:
        for cls in reversed(classes):
            names = set(option_names(cls)) - set(but)
            for field in reversed([f for f in dataclasses.fields(cls) if f.name in names]):
                default = "preset" if field.name in preset_keys else _default(field)
                text = defaults.get(field.name, owner or default)
                function = _setting(cls, field, text, common)(function)
        return function

    return decorate


def named(given: dict[str, Any]) -> dict[str, Any]:
    """Return only the options that the user set."""
    return {name: value for name, value in given.items() if value is not None}


def first_given(names: Iterable[str]) -> str | None:
    """Return the flag of the first of these options that the user set, here or in a file; None where there is none."""
    context = click.get_current_context()
    given = [name for name in names if context.get_parameter_source(name) is not ParameterSource.DEFAULT]
    if not given:
        return None
    param = next(param for param in context.command.params if param.name == given[0])
    is_off = context.params[given[0]] is False
    return (param.secondary_opts if is_off and param.secondary_opts else param.opts)[0]


def _setting(cls: type, field: dataclasses.Field[Any], default: str, common: bool) -> Callable[[F], F]:
    plain, many, _ = field_types(cls)[field.name]
    flag = "--" + field.name.replace("_", "-")
    names = [flag, SHORT_NAMES[field.name]] if field.name in SHORT_NAMES else [flag]
    known: dict[str, Any] = {
        "help": field.metadata["help"], "default": None, "default_text": default, "field": (cls, field.name),
        "group": field.metadata["group"], "common": common and field.metadata["common"],
    }  # fmt: skip
    if plain is bool:
        return option(f"{flag}/--no-{flag[2:]}", field.name, **known)
    value = _value(cls, field, plain)
    if many:
        item = value.get("metavar", "NAME")
        value = {"type": CommaSeparated(value["type"]), "metavar": f"{item},..."}
    return option(*names, field.name, **value, **known)


def _value(cls: type, field: dataclasses.Field[Any], plain: type) -> dict[str, Any]:
    """Type and placeholder of a setting with one value."""
    if field.name == "device":
        return {"type": Device(), "metavar": "NAME"}
    if field.name in PATHS:
        return {"type": click.Path(), "metavar": PATHS[field.name]}
    if field.metadata["choices"]:
        return {"type": click.Choice(field.metadata["choices"])}
    minimum, maximum = bounds(cls, field.name)
    if field.name == "batch_size":
        return {"type": WordOrCount(minimum, maximum), "metavar": "auto|N"}
    if is_size(cls, field.name):
        return {"type": ImageSize(minimum, maximum), "metavar": "N|HxW"}
    if plain is int:
        return {"type": WholeRange(minimum, maximum), "metavar": "N"}
    if plain is float:
        return {"type": FiniteRange(minimum, maximum), "metavar": "X"}
    return {"type": click.STRING}


def _default(field: dataclasses.Field[Any]) -> str:
    default = field.metadata["auto"] or field.default
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, tuple):
        return ",".join(map(str, default)) or "none"
    return f"{default:g}" if isinstance(default, float) else str(default)
