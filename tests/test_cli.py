"""The command line itself: help, exit codes, what it imports."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from imgtf.bench.config import BenchConfig
from imgtf.cli import PRIOR_CLASSES, TOKENIZER_CLASSES, cli, main
from imgtf.pipelines.settings import option_names


def commands(
    group: click.Group = cli, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


def exit_code(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    return int(stopped.value.code or 0)


def test_help_loads_nothing_heavy() -> None:
    program = (
        "import sys, imgtf.cli\n"
        "sys.argv = ['imgtf', 'tokenizer', 'train', '--help']\n"
        "try: imgtf.cli.main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'datasets', 'accelerate', 'PIL', 'numpy'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "--codebook-size" in done.stdout


@pytest.mark.parametrize("path", [path for path, _ in commands()], ids=" ".join)
def test_every_option_says_what_it_does_and_its_default(path: tuple[str, ...], capsys: Any) -> None:
    command = dict(commands())[path]
    assert command.help
    assert exit_code(*path, "--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    for option in (p for p in command.params if isinstance(p, click.Option)):
        assert option.help, option.name
        assert option.required or "[default:" in option.help or option.show_default, option.name
        assert option.opts[0] in text


@pytest.mark.parametrize(
    "wrong",
    [
        ("tokenizer", "train", "--stpes", "3"),
        ("tokenizer", "train", "--steps", "many"),
        ("tokenizer", "train", "--steps", "0"),
        ("tokenizer", "train", "--multipliers", "1,x"),
        ("tokenizer", "train", "--preset", "huge"),
        ("sample", "--n", "0"),
        ("sample", "--batch-size", "many"),
        ("bench", "--model", "m", "--preset", "tiny"),
        ("smaple",),
        ("tokenizer", "reconstruct", "--out", "x"),
    ],
)
def test_wrong_usage_exits_with_two(wrong: tuple[str, ...], capsys: Any) -> None:
    assert exit_code(*wrong) == 2
    assert "Error" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (("tokenizer", "train", "--data", "./nowhere"), "nowhere"),
        (("tokenizer", "train", "--config", "none.toml"), "none.toml: no such"),
        (("sample", "--model", "nowhere"), "nowhere/tokenizer/config.json: no such file"),
        (("sample", "--device", "warp"), "device warp"),
        (("prior", "train", "--model", "nowhere"), "nowhere holds no tokenizer"),
        (("info", "nowhere"), "nowhere"),
        (("sample", "--model", "nowhere", "--dry-run"), "nowhere/tokenizer/config.json: no such file"),
        (("bench", "--model", "nowhere"), "nowhere/tokenizer/config.json: no such file"),
        (("bench", "--parts", "sampling,flying"), "parts must be one of sampling"),
        (("bench", "--batch-sizes", "0"), "batch_sizes must be at least 1"),
    ],
)
def test_wrong_input_exits_with_one_and_one_line(
    wrong: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert exit_code(*wrong) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert list(tmp_path.iterdir()) == []


def test_every_setting_is_read_somewhere() -> None:
    """No dead options: each field of a configuration is read as an attribute somewhere in the package."""
    root = Path(__file__).parents[1]
    rooms = ("tokenizer", "prior", "training", "data", "pipelines")
    text = "\n".join(p.read_text() for room in rooms for p in (root / room).rglob("*.py"))
    classes = (*TOKENIZER_CLASSES, *PRIOR_CLASSES, BenchConfig)
    names = {name for cls in classes for name in option_names(cls)}
    assert [name for name in sorted(names) if not re.search(rf"\.{name}\b", text)] == []
