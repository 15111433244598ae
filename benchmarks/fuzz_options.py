"""Options and configuration files with odd values for fuzz.py, and what the commands make of them."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path
from typing import Any

import click

from imgtf.cli import cli
from imgtf.commands.command import config_key
from imgtf.commands.types import AutoOrCount, CommaSeparated, ImageSize
from imgtf.errors import ConfigError
from imgtf.options import bounds, sides_of
from imgtf.pipelines.settings import (
    CACHE_CLASSES,
    PRIOR_CLASSES,
    TOKENIZER_CLASSES,
    collect,
    collect_for_model,
)

TEXTS = (
    "0", "-1", "1", "2", "3", "1e3", "1.5", "-0", "+7", "007", "0x10", "1_000", "\uff11", "\u0661", "", " ", " 8 ",
    "\n", "nan", "NaN", "inf", "-inf", "infinity", "1e999", "1e-999", "2147483647", "2147483648", "4294967296",
    "9223372036854775807", "9223372036854775808", "18446744073709551615", "18446744073709551616", "1" + "0" * 400,
    "9" * 5000, "auto", "none", "null", "true", "1,2", "1,,2", ",", "1;2", "8x8", "8x", "x8", "99999999x99999999", "--",
    "-", "\u221e", "\ud83d\ude00", "\udcff", "a" * 10_000, "$(id)", "%s", "{}", "..", "1e400", "0.1", "-0.1", "1e12",
    "1.0000001e12", "1e-5",
)  # fmt: skip
TOML = (
    "0", "-1", "1", "2.5", "1e3", "nan", "-inf", "inf", "2147483648", "9223372036854775808", "1" + "0" * 400,
    "0x" + "f" * 5000, "9" * 5000, "true", "false", '""', '"1"', '"a\\u0000b"', '"' + "x" * 100_000 + '"', "[]", "[1]",
    "[1, 2]", "[[1]]", '["a", 1]', "{}", "{a = 1}", "{a = {a = {a = 1}}}", "1979-05-27", "[1979-05-27T07:32:00Z]",
    "07:32:00", "[nan]", "[" + "1," * 5000 + "]", "[" * 500 + "]" * 500, "[" * 50_000, "'''a\nb'''", '"\\uD800"',
    "0o17", "+1", "1_000", '["a\\u0000"]',
)  # fmt: skip
JUNK: tuple[bytes, ...] = (
    b"\xff\xfe", b"\xef\xbb\xbfsteps = 3\n", b"\0" * 100, b"=" * 10_000_000, b"a" * 10_000_000,
    b"a." * 500_000 + b"a = 1", b"[a]\n" * 2, b"steps = 1\nsteps = 2\n", b"[[steps]]\n" * 9999, b"steps", b"steps =",
    b'"steps" = 3\n', b"'' = 1\n", b"steps = 1 steps = 2", b"# " + b"\xe9" * 10, b"\r\r\r", b"steps.a = 1\n",
    b"[steps]\na = 1\n", b"steps = \x00", b"a." * 2_000 + b"a = 1", b"a = " + b"{a = " * 2_000,
)  # fmt: skip


def _walk(group: click.Group, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], click.Command]:
    found: dict[tuple[str, ...], click.Command] = {}
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        found |= (
            _walk(command, (*path, name)) if isinstance(command, click.Group) else {(*path, name): command}
        )
    return found


@cache
def commands() -> dict[tuple[str, ...], click.Command]:
    """All commands by their path."""
    return _walk(cli)


@cache
def numbers() -> list[tuple[tuple[str, ...], click.Parameter]]:
    """Every option of whole numbers, floats or sizes, with its command."""
    numeric = (type(click.INT), type(click.FLOAT), AutoOrCount, ImageSize)
    found = []
    for path, command in commands().items():
        for param in command.params:
            kind = param.type.item if isinstance(param.type, CommaSeparated) else param.type
            if isinstance(kind, numeric):
                found.append((path, param))
    return found


def _arguments(path: tuple[str, ...]) -> list[str]:
    """What a command cannot be parsed without."""
    given: list[str] = []
    for param in commands()[path].params:
        if param.required or isinstance(param, click.Argument):
            value = "0,0" if param.name == "at" else "auto" if isinstance(param.type, click.Choice) else "x"
            if isinstance(param.type, click.Choice) and value not in param.type.choices:
                value = str(param.type.choices[0])
            given += [value] if isinstance(param, click.Argument) else [param.opts[0], value]
    return given


def _bounds(param: click.Parameter) -> list[str]:
    """The bounds of an option, and the numbers beside them."""
    field = getattr(param, "field", None)
    kind = param.type.item if isinstance(param.type, CommaSeparated) else param.type
    kind = getattr(kind, "count", None) or getattr(kind, "side", None) or kind
    low, high = bounds(*field) if field else (getattr(kind, "min", None), getattr(kind, "max", None))
    return [str(bound + add) for bound in (low, high) if bound is not None for add in (-1, 0, 1)]


def option_case(stream: random.Random) -> tuple[str, str]:
    """One number on the command line."""
    path, param = stream.choice(numbers())
    text = stream.choice([*TEXTS, *_bounds(param) * 4])
    label = f"{' '.join(path)} {param.opts[0]} {text[:60]!r}"
    try:
        given = [*_arguments(path), param.opts[0], text]
        context = commands()[path].make_context(path[-1], given)
        value = context.params[str(param.name)]
        _settings(path, {param.name: value})
    except (click.UsageError, ConfigError) as error:
        return _refusal(error, label)
    return _accepted(param, text, value, label)


def _settings(path: tuple[str, ...], given: dict[Any, Any]) -> None:
    """Build the settings of a training command, as it does before any work."""
    for stage, classes in (("tokenizer", TOKENIZER_CLASSES), ("prior", PRIOR_CLASSES)):
        if path == (stage, "train"):
            settings = collect(stage, classes, {k: v for k, v in given.items() if v is not None})
            for cls in classes:
                if cls.__name__ != "PriorConfig":
                    settings.part(cls)


def _accepted(param: click.Parameter, text: str, value: Any, label: str) -> tuple[str, str]:
    if isinstance(param.type, CommaSeparated):
        own = ",".join(str(each) for each in value)
        fine = [float(each) for each in value] == [float(each) for each in text.split(",") if each.strip()]
    elif isinstance(param.type, ImageSize):
        own = "x".join(map(str, sides_of(value)))
        fine = own in (text.strip().lower(), "x".join([text.strip().lstrip("0")] * 2))
    elif value is None:
        own, fine = "None", text == "auto"
    else:
        own, fine = str(value), float(value) == float(text)
    if text in _outside(param):
        fine = False
    return ("correct", "") if fine else ("wrong", f"{label} is accepted as {own:.60}")


def _outside(param: click.Parameter) -> list[str]:
    """The numbers of `_bounds` that are outside."""
    near = _bounds(param)
    return [near[0], near[-1]] if len(near) == 6 else []


def toml_case(stream: random.Random, folder: Path) -> tuple[str, str]:
    """A file of --config, with one or more odd values, or no TOML at all."""
    path = stream.choice(list(commands()))
    command = commands()[path]
    params = [param for param in command.params if param.expose_value]
    chosen = stream.sample(params, min(len(params), stream.choice([1, 1, 1, 3])))
    lines = [f"{config_key(param)} = {stream.choice(TOML)}" for param in chosen]
    if stream.random() < 0.1:
        lines += stream.choice([["unknown = 1"], ["[table]", "a = 1"], [lines[0]], ["\u00e9 = 1"]])
    data = stream.choice(JUNK) if stream.random() < 0.2 else "\n".join(lines).encode()
    (folder / "run.toml").write_bytes(data)
    label = f"{' '.join(path)} {data[:120]!r}"
    try:
        context = command.make_context(path[-1], [*_arguments(path), "--config", str(folder / "run.toml")])
        _settings(path, {p.name: context.params[str(p.name)] for p in params if getattr(p, "field", None)})
    except (click.UsageError, ConfigError) as error:
        return _refusal(error, label)
    return "correct", ""


def inherited_case(stream: random.Random, folder: Path) -> tuple[str, str]:
    """The train.toml of a model, from which other commands take the data."""
    keys = [
        "data",
        "held_out",
        "workers",
        "background",
        "crop_scale",
        "flip",
        "split",
        "steps",
        "unknown",
        "conditioning_size",
    ]
    data = "\n".join(
        f"{key} = {stream.choice(TOML)}" for key in stream.sample(keys, stream.choice([1, 2]))
    ).encode()
    (folder / "tokenizer").mkdir(exist_ok=True)
    (folder / "tokenizer" / "train.toml").write_bytes(stream.choice(JUNK) if stream.random() < 0.2 else data)
    try:
        settings = collect_for_model(folder, CACHE_CLASSES, {})
        for cls in CACHE_CLASSES:
            settings.part(cls)
    except ConfigError as error:
        return _refusal(error, f"train.toml {data[:200]!r}")
    return "correct", ""


def _refusal(error: Exception, label: str) -> tuple[str, str]:
    """A refusal is one line that is not endless; the command line joins the lines of click."""
    text = error.format_message() if isinstance(error, click.ClickException) else str(error)
    short = len(text) < 20_000 and (isinstance(error, click.ClickException) or "\n" not in text)
    return (
        ("error", "")
        if short and text.strip()
        else ("wrong", f"{label}: {len(text)} characters: {text:.200}")
    )


def case(seed: int, folder: Path) -> tuple[str, str, str]:
    """Parse one option or file as a command does; return its kind, the outcome and a note.

    Outcomes: correct, error (a usage error or one line), wrong. A success is wrong where the command has another value
    than the one that was given, or one outside the bounds.
    """
    stream = random.Random(seed)
    how = seed % 4
    if how < 2:
        return ("option", *option_case(stream))
    if how == 2:
        return ("config file", *toml_case(stream, folder))
    return ("train.toml", *inherited_case(stream, folder))
