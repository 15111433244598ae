"""The command class: options in groups, `--help` and `--help-all`, `--config`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ..errors import ConfigError
from ..options import check, shown, unknown_key
from ..pipelines.settings import LENGTHS, read_toml
from .types import AUTO, Preset, WordOrCount

GROUPS = {
    "run": ("Run", "Run"),
    "images": ("Images", "Images"),
    "data": ("Data", "Data"),
    "conditions": ("Conditions", "Data"),
    "augmentation": ("Augmentation", "Data"),
    "network": ("Network", "Network"),
    "quantizer": ("Quantizer", "Network"),
    "optimisation": ("Optimisation", "Training"),
    "losses": ("Losses", "Training"),
    "discriminator": ("Discriminator", "Training"),
    "sampling": ("Sampling", "Sampling"),
    "measurement": ("Measurement", "Measurement"),
    "device": ("Device and precision", "Device and precision"),
    "limits": ("Limits", "Limits"),
    "output": ("Output", "Output"),
    "logging": ("Logging", "Training"),
    "other": ("Other", "Other"),
    "help": ("Help", "Help"),
}
"""Groups of options: their headings in `--help-all` and in `--help`, which needs fewer."""
NAME_COLUMN = 26
"""Columns of the options' names at most; longer ones take a line of their own."""
HELP_ALL = "imgtf.help_all"
"""Key in click's context."""


class Option(click.Option):
    """An option of a group.

    Args:
        group: a key of `GROUPS`.
        common: whether `--help` shows the option; `--help-all` shows every option.
        default_text: the default in words, where `default` does not say it.
        field: configuration class and field that the option sets.
    """

    def __init__(
        self,
        *args: Any,
        group: str = "other",
        common: bool = True,
        default_text: str | None = None,
        field: tuple[type, str] | None = None,
        **attributes: Any,
    ) -> None:
        super().__init__(*args, **attributes)
        self.group, self.common, self.field = group, common, field
        self.default_text = default_text or _in_words(attributes.get("default"))

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        record = super().get_help_record(ctx)
        if record is None or (self.is_flag and not self.secondary_opts):  # a plain flag is off by default
            return record and (record[0], str(self.help))
        note = "required" if self.required else f"default: {self.default_text}"
        return record[0], f"{self.help}  [{note}]"


class Command(click.Command):
    """A command with grouped help and a configuration file."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.params.append(
            Option(
                ["--config"], type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", is_eager=True,
                expose_value=False, callback=_read_config, group="run", default_text="none",
                help="TOML file of options. The command line wins.",
            )
        )  # fmt: skip
        self.params.append(
            click.Option(
                ["--help-all"], is_flag=True, is_eager=True, expose_value=False, callback=_show_all,
                help="Show every option and exit.",
            )
        )  # fmt: skip

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments. A length of a run among them replaces all of the length in the configuration file."""
        rest = super().parse_args(ctx, args)
        source = {name: ctx.get_parameter_source(name) for name in LENGTHS}
        if ParameterSource.COMMANDLINE in (source["steps"], source["minutes"]):
            of_file = [name for name in LENGTHS if source[name] is ParameterSource.DEFAULT_MAP]
            ctx.params |= dict.fromkeys(of_file)
        return rest

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options in groups: the common ones, or all for `--help-all`."""
        sections = self._sections(ctx)
        width = min(NAME_COLUMN, max(len(name) for rows in sections.values() for name, _ in rows))
        for heading, rows in sections.items():
            with formatter.section(heading):
                formatter.write_dl([(name.ljust(width), text) for name, text in rows], col_max=NAME_COLUMN)

    def _sections(self, ctx: click.Context) -> dict[str, list[tuple[str, str]]]:
        """Heading -> names and texts of its options."""
        everything = ctx.meta.get(HELP_ALL, False)
        sections: dict[str, list[tuple[str, str]]] = {}
        for group, (heading, short_heading) in GROUPS.items():
            for param in self._params_of(group, ctx):
                record = param.get_help_record(ctx)
                if record and (everything or getattr(param, "common", True)):
                    sections.setdefault(heading if everything else short_heading, []).append(record)
                if isinstance(param.type, Preset):
                    sections["Presets"] = list(param.type.about.items())
        return sections

    def _params_of(self, group: str, ctx: click.Context) -> list[click.Parameter]:
        """Options of one group. Arguments are in the usage line and in the description only."""
        options = [p for p in self.get_params(ctx) if isinstance(p, click.Option)]
        own = [p for p in options if getattr(p, "group", "help") == group]
        unknown = (
            [p for p in options if getattr(p, "group", "help") not in GROUPS] if group == "other" else []
        )
        return [*sorted(own, key=lambda p: p.name == "help_all"), *unknown]


class Group(click.Group):
    """A group of such commands."""

    command_class = Command


def _in_words(default: Any) -> str:
    """A default as the help shows it."""
    if isinstance(default, tuple):
        return ",".join(map(str, default)) or "none"
    return "none" if default is None else str(default)


def _show_all(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        ctx.meta[HELP_ALL] = True
        click.echo(ctx.get_help(), color=ctx.color)
        ctx.exit()


def _read_config(ctx: click.Context, param: click.Parameter, file: Path | None) -> None:
    """Take the file's values as the command's defaults.

    Raises:
        ConfigError: for a key that is not an option of the command, or a value that the option refuses.
    """
    if file is None or ctx.resilient_parsing:
        return
    params = {config_key(p): p for p in ctx.command.params if p.expose_value}
    defaults = {}
    for key, value in read_toml(file).items():
        name = key.replace("-", "_")
        if name not in params:
            raise unknown_key(str(file), key, params)
        _check_value(ctx, params[name], name, value, str(file))
        defaults[str(params[name].name)] = value
    ctx.default_map = {**(ctx.default_map or {}), **defaults}


def config_key(param: click.Parameter) -> str:
    """The name of a parameter in a configuration file: the long option with underscores."""
    long = [name for name in param.opts if name.startswith("--")] or [str(param.name)]
    return long[0].removeprefix("--").replace("-", "_")


def _check_value(ctx: click.Context, param: click.Parameter, key: str, value: Any, where: str) -> None:
    """ConfigError when a value of the file has the wrong type or is out of range."""
    several = param.multiple or param.nargs == -1
    items = value if several and isinstance(value, list) else [value]
    field, wanted = getattr(param, "field", None), _plain_types(param)
    if field and not (value == AUTO and isinstance(param.type, WordOrCount)):
        check(field[0], field[1], value, where)
    elif any(type(item) not in wanted for item in items):
        names = " or ".join(plain.__name__ for plain in wanted)
        raise ConfigError(f"{where}: {key} must be {names}, got {shown(value)}")
    if any(isinstance(item, str) and "\0" in item for item in items):
        raise ConfigError(f"{where}: {key} must not contain a NUL character, got {shown(value)}")
    try:
        param.type_cast_value(ctx, items if several else value)
    except click.BadParameter as error:
        raise ConfigError(f"{where}: {key}: {error.message:.300}") from error


def _plain_types(param: click.Parameter) -> tuple[type, ...]:
    """Python types in a TOML file for one value of a parameter."""
    if isinstance(param, click.Option) and param.is_bool_flag:
        return (bool,)
    own: tuple[type, ...] = getattr(param.type, "in_file", (str,))
    return own
