"""Shell completion: click's own, for commands, options and values."""

from __future__ import annotations

import os
import subprocess
import sys

import click
import pytest
from click.shell_completion import ShellComplete

from imgtf.cli import cli

from .conftest import COMMANDS


def complete(*arguments: str) -> list[str]:
    """The words that the shell would offer for the last argument."""
    found = ShellComplete(cli, {}, "imgtf", "_IMGTF_COMPLETE").get_completions(
        list(arguments[:-1]), arguments[-1]
    )
    return [item.value for item in found]


def test_commands() -> None:
    assert complete("") == list(cli.list_commands(click.Context(cli)))
    assert complete("tokenizer", "e") == ["encode", "eval"]


@pytest.mark.parametrize("path", list(COMMANDS), ids=" ".join)
def test_every_option_of_a_command(path: tuple[str, ...]) -> None:
    expected = {name for p in COMMANDS[path].params for name in p.opts if name.startswith("--")}
    assert set(complete(*path, "--")) >= expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("tokenizer", "train", "--preset", ""), ["auto", "tiny", "small", "medium", "base"]),
        (("tokenizer", "train", "--quantizer", "r"), ["residual_vq"]),
        (("tokenizer", "train", "--device", "c"), ["cpu", "cuda"]),
        (("sample", "--precision", "b"), ["bf16"]),
        (("sample", "--batch-size", "a"), ["auto"]),
        (("bench", "--parts", "sampling,t"), ["sampling,training", "sampling,tokenizer"]),
    ],
)
def test_values(arguments: tuple[str, ...], expected: list[str]) -> None:
    assert complete(*arguments) == expected


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_the_shell(shell: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "imgtf"], capture_output=True, text=True,
        env={**os.environ, "_IMGTF_COMPLETE": f"{shell}_source"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "_IMGTF_COMPLETE" in done.stdout
    assert "imgtf" in done.stdout


def test_the_shell_is_answered_without_heavy_imports() -> None:
    program = (
        "import sys, imgtf.cli\n"
        "try: imgtf.cli.main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'datasets', 'numpy', 'PIL'} & set(sys.modules)), file=sys.stderr)"
    )
    asked = {"_IMGTF_COMPLETE": "bash_complete", "COMP_WORDS": "imgtf sample --prec", "COMP_CWORD": "2"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, **asked}
    )
    assert done.stdout.strip() == "plain,--precision"
    assert done.stderr.strip() == "[]"
