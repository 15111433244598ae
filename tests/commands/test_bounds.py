"""Numbers on the command line have bounds: a wrong one ends in exit code 2 and one line."""

from __future__ import annotations

from typing import Any

import click
import pytest

from ..pipelines.conftest import run
from .conftest import COMMANDS

HUGE = ("99999999999999999999", "18446744073709551616", "9" * 5000, "-99999999999999999999")
NUMBERS = [
    (path, param.opts[0])
    for path, command in COMMANDS.items()
    for param in command.params
    if isinstance(param.type, (type(click.INT), type(click.FLOAT)))
]


def refused(*arguments: str, capsys: Any) -> str:
    assert run(*arguments) == 2, arguments
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("Error: Invalid value for ")
    assert line.endswith(" --help.")
    return str(line)


@pytest.mark.parametrize("value", HUGE, ids=lambda value: value[:22])
def test_huge_whole_numbers_are_refused(value: str, capsys: Any) -> None:
    for path, flag in NUMBERS:
        param = next(p for p in COMMANDS[path].params if flag in p.opts)
        if isinstance(param.type, type(click.INT)):
            assert flag in refused(*path, flag, value, capsys=capsys)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999", "1e300", "x"])
def test_floats_are_finite(value: str, capsys: Any) -> None:
    for path, flag in NUMBERS:
        param = next(p for p in COMMANDS[path].params if flag in p.opts)
        if isinstance(param.type, type(click.FLOAT)):
            assert flag in refused(*path, flag, value, capsys=capsys)


@pytest.mark.parametrize(
    "wrong",
    [
        ("sample", "--seed", "99999999999999999999"),
        ("sample", "--seed", "-1"),
        ("sample", "--first", "18446744073709551615"),
        ("sample", "--n", "99999999999"),
        ("sample", "--batch-size", "99999999999"),
        ("sample", "--batch-size", "0"),
        ("sample", "--top-p", "1.5"),
        ("tokenizer", "train", "--steps", "99999999999"),
        ("tokenizer", "train", "--seed", "18446744073709551615"),
        ("tokenizer", "train", "--multipliers", "1,99999999999999999999"),
        ("bench", "--batch-sizes", "1,0"),
        ("prior", "eval", "--orders", "0"),
    ],
    ids=" ".join,
)
def test_out_of_range_is_a_usage_error(wrong: tuple[str, ...], capsys: Any) -> None:
    refused(*wrong, capsys=capsys)


SIZES = [(("tokenizer", "train"), "--image-size"), (("import",), "--image-size")]


@pytest.mark.parametrize(
    ("value", "size"), [("64", 64), ("64x64", 64), ("192x128", (192, 128)), ("192X128", (192, 128))]
)
def test_sizes(value: str, size: Any) -> None:
    for path, flag in SIZES:
        context = COMMANDS[path].make_context(
            "x", [flag, value, *(["auto", "f"] if path == ("import",) else [])]
        )
        assert context.params["image_size"] == size


@pytest.mark.parametrize(
    "value",
    [*HUGE, "64x", "x64", "64x64x3", "64,96", "3", "64x3", "3x64", "0x64", "-64x64", "64.5", "1e3", ""],
)
def test_wrong_sizes_are_refused(value: str, capsys: Any) -> None:
    for path, flag in SIZES:
        line = refused(*path, flag, value, *(["auto", "f"] if path == ("import",) else []), capsys=capsys)
        assert flag in line
        assert "such as 192x128" in line or "is not in the range" in line


def test_the_largest_seed_is_accepted() -> None:
    for value in (0, 2**64 - 1):
        assert COMMANDS[("sample",)].make_context("sample", ["--seed", str(value)]).params["seed"] == value


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:12"])
def test_devices(device: str, capsys: Any) -> None:
    for path in (("sample",), ("tokenizer", "train"), ("bench",)):
        assert COMMANDS[path].make_context("x", ["--device", device]).params["device"] == device
        refused(*path, "--device", f"{device}x", capsys=capsys)


@pytest.mark.parametrize("flag", ["--beta1", "--beta2", "--ema-decay"])
def test_a_moving_average_that_never_moves_is_refused(flag: str, capsys: Any) -> None:
    for path in (("tokenizer", "train"), ("prior", "train")):
        assert flag in refused(*path, flag, "1", capsys=capsys)
