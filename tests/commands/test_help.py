"""Help: what `--help` and `--help-all` show, and how much of it."""

from __future__ import annotations

import re
from typing import Any

import click
import pytest

from imgtf.commands.command import GROUPS, Option
from imgtf.options import option as setting
from imgtf.pipelines.settings import load_presets

from ..pipelines.conftest import run
from .conftest import COMMANDS

EVERY = pytest.mark.parametrize("path", list(COMMANDS), ids=" ".join)
HELP_LENGTH = 80
SCREEN = 60


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")


def options(path: tuple[str, ...]) -> list[Option]:
    return [p for p in COMMANDS[path].params if isinstance(p, Option)]


def shown(path: tuple[str, ...], flag: str, capsys: Any) -> str:
    assert run(*path, flag) == 0
    return str(capsys.readouterr().out)


def flags(text: str) -> set[str]:
    """The options that have a row of their own."""
    return set(re.findall(r"^  (?:-\w, )?(--[\w-]+)", text, flags=re.MULTILINE))


@EVERY
def test_help_fits_a_screen(path: tuple[str, ...], capsys: Any) -> None:
    text = shown(path, "--help", capsys)
    assert len(text.splitlines()) <= SCREEN
    assert max(map(len, text.splitlines())) <= 100


@EVERY
def test_help_shows_the_common_options_and_help_all_every_option(path: tuple[str, ...], capsys: Any) -> None:
    common = {o.opts[0] for o in options(path) if o.common}
    assert flags(shown(path, "--help", capsys)) == common | {"--help", "--help-all"}
    every = {o.opts[0] for o in options(path)}
    assert flags(shown(path, "--help-all", capsys)) == every | {"--help", "--help-all"}


@EVERY
def test_every_option_has_one_line_of_help_and_a_default(path: tuple[str, ...]) -> None:
    context = click.Context(COMMANDS[path])
    for option in options(path):
        assert option.help
        assert len(option.help) <= HELP_LENGTH, option.name
        assert option.help.endswith("."), option.name
        record = option.get_help_record(context)
        assert record is not None
        plain_flag = option.is_flag and not option.secondary_opts
        assert plain_flag or record[1].endswith("]"), option.name


@EVERY
def test_every_option_is_in_a_known_group(path: tuple[str, ...]) -> None:
    assert [o.name for o in options(path) if o.group not in GROUPS or o.group == "other"] == []


@EVERY
def test_every_command_says_what_it_does(path: tuple[str, ...]) -> None:
    command = COMMANDS[path]
    assert command.help


def test_headings_group_the_options(capsys: Any) -> None:
    text = shown(("tokenizer", "train"), "--help-all", capsys)
    headings = re.findall(r"^(\w.*):$", text, flags=re.MULTILINE)
    assert headings == [
        "Run", "Presets", "Data", "Augmentation", "Network", "Quantizer", "Optimisation", "Losses",
        "Discriminator", "Output", "Logging", "Help",
    ]  # fmt: skip


@pytest.mark.parametrize("stage", ["tokenizer", "prior"])
def test_presets_are_listed_with_what_they_are(stage: str, capsys: Any) -> None:
    text = " ".join(shown((stage, "train"), "--help", capsys).split())
    for name, preset in load_presets(stage).items():
        assert f"{name} {preset['about']}" in text


def test_defaults_that_follow_the_images_say_so(capsys: Any) -> None:
    text = shown(("tokenizer", "train"), "--help-all", capsys)
    assert re.search(r"--channels N .*\[default: the images' own\]", text)


def test_an_option_without_a_group_is_still_shown() -> None:
    """A new setting whose group has no heading must not vanish from the help."""
    from dataclasses import make_dataclass

    from imgtf.commands.options import command, settings_options

    settings = make_dataclass("New", [("depth", int, setting(3, "A depth.", group="brand-new", common=True))])

    @command()
    @settings_options(settings)
    def new(**given: Any) -> None:
        """Do something new."""

    assert "--depth N" in new.get_help(click.Context(new))


@pytest.mark.parametrize("name", ["--device", "--out"])
def test_an_option_takes_the_same_values_in_every_command(name: str) -> None:
    found = [o for path in COMMANDS for o in options(path) if name in o.opts]
    assert len(found) > 3
    assert len({type(o.type) for o in found}) == 1


def test_precision_defaults_to_auto_everywhere() -> None:
    found = [o for path in COMMANDS for o in options(path) if "--precision" in o.opts]
    assert len(found) >= 7
    for option in found:
        assert isinstance(option.type, click.Choice)
        assert list(option.type.choices)[:4] == ["auto", "fp32", "bf16", "fp16"]
        assert "auto" in (option.default, option.default_text)


@pytest.mark.parametrize(
    ("path", "absent"),
    [
        ("tokenizer eval", {"flip", "crop", "crop_scale", "crops_per_image", "conditions"}),
        ("prior eval", {"flip", "crop", "crops_per_image", "conditions"}),
        ("bench", {"flip", "crop", "conditions"}),
        ("tokenizer train", {"conditioning_column", "conditions", "crops_per_image"}),
        ("sample", {"data"}),
    ],
)
def test_a_command_takes_only_options_that_it_reads(path: str, absent: set[str]) -> None:
    assert {o.name for o in options(tuple(path.split()))} & absent == set()


def test_encode_takes_what_a_token_cache_depends_on() -> None:
    names = {o.name for o in options(("tokenizer", "encode"))}
    assert names >= {
        "data",
        "flip",
        "crop",
        "crops_per_image",
        "conditions",
        "conditioning_column",
        "text_encoder",
    }


def test_old_names_are_gone() -> None:
    old = {"dtype", "mirrored", "source", "views", "clip", "final_lr", "guidance"}
    assert {(path, o.name) for path in COMMANDS for o in options(path) if o.name in old} == set()


def test_capture_is_off_and_not_among_the_common_options() -> None:
    (capture,) = [o for o in options(("sample",)) if o.name == "capture"]
    assert capture.get_default(click.Context(COMMANDS[("sample",)])) is not True
    assert not capture.common


def test_micro_batches_have_a_short_name() -> None:
    (option,) = [p for p in COMMANDS["tokenizer", "train"].params if p.name == "gradient_accumulation_steps"]
    assert option.opts == ["--gradient-accumulation-steps", "--accumulate"]
