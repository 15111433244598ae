"""The entry point: exit codes, one-line errors, start-up time."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import pytest
from PIL import Image

from imgtf.bench.config import BenchConfig
from imgtf.cli import COMMANDS, cli, main
from imgtf.errors import ConfigError, Interrupted
from imgtf.pipelines.settings import PRIOR_CLASSES, TOKENIZER_CLASSES, option_names

ROOT = Path(__file__).parents[1]


def exit_code(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    return int(stopped.value.code or 0)


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["tokenizer", "train", "--help-all"], ["sample", "--help"]]
)
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    program = (
        f"import sys, imgtf.cli\nsys.argv = ['imgtf', *{arguments}]\n"
        "try: imgtf.cli.main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'datasets', 'accelerate', 'PIL', 'numpy'} & set(sys.modules)), file=sys.stderr)"
    )
    done = python("-c", program)
    assert done.stderr.strip() == "[]"
    assert "Usage: imgtf" in done.stdout


def test_help_answers_at_once() -> None:
    def seconds() -> float:
        start = time.perf_counter()
        assert python("-m", "imgtf", "--help").returncode == 0
        return time.perf_counter() - start

    assert min(seconds() for _ in range(3)) < 0.3


def test_a_command_is_imported_when_it_is_used() -> None:
    program = "import sys, imgtf.cli; print([m for m in sys.modules if m.startswith('imgtf.commands.')])"
    assert python("-c", program).stdout.strip() == "['imgtf.commands.lazy', 'imgtf.commands.reporting']"


def test_commands_are_listed_in_the_order_of_use(capsys: Any) -> None:
    assert exit_code("--help") == 0
    text = capsys.readouterr().out.split("Commands:")[1]
    assert re.findall(r"^  (\w+)", text, flags=re.MULTILINE) == list(COMMANDS)


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_in_the_list_exists(name: str) -> None:
    assert cli.get_command(click.Context(cli), name) is not None
    assert COMMANDS[name][1].endswith(".")


def test_module_and_command_are_the_same() -> None:
    help_text = python("-m", "imgtf", "sample", "--help").stdout
    assert help_text.startswith("Usage: imgtf sample")


@pytest.mark.parametrize(
    "wrong",
    [
        ("tokenizer", "train", "--stpes", "3"),
        ("tokenizer", "train", "--steps", "many"),
        ("tokenizer", "train", "--steps", "0"),
        ("tokenizer", "train", "--multipliers", "1,x"),
        ("tokenizer", "train", "--preset", "huge"),
        ("tokenizer", "trian"),
        ("sample", "--n", "0"),
        ("sample", "--batch-size", "many"),
        ("sample", "--device", "warp"),
        ("bench", "--model", "m", "--preset", "tiny"),
        ("bench", "--parts", "sampling,flying"),
        ("smaple",),
        ("tokenizer", "reconstruct", "--out", "x"),
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_with_two_and_one_line(wrong: tuple[str, ...], capsys: Any) -> None:
    assert exit_code(*wrong) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("Error: ")
    assert re.search(r"See imgtf[\w ]* --help\.$", line)


@pytest.mark.parametrize("group", [(), ("tokenizer",), ("prior",)])
def test_a_group_without_a_command_shows_its_help(group: tuple[str, ...], capsys: Any) -> None:
    assert exit_code(*group) == 2
    assert "Commands:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (("tokenizer", "train", "--data", "./nowhere"), "nowhere"),
        (("tokenizer", "train", "--config", "none.toml"), "none.toml: no such"),
        (("sample", "--model", "nowhere"), "nowhere/tokenizer/config.json: no such file"),
        (("prior", "train", "--model", "nowhere"), "nowhere holds no tokenizer"),
        (("info", "nowhere"), "nowhere"),
        (("sample", "--model", "nowhere", "--dry-run"), "nowhere/tokenizer/config.json: no such file"),
        (("bench", "--model", "nowhere"), "nowhere/tokenizer/config.json: no such file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_input_exits_with_one_and_one_line(
    wrong: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert exit_code(*wrong) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("Error: ")
    assert message in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConfigError("a\nb"), 1, "Error: a b"),
        (
            Interrupted("saved", 2, "prior", "my model"),
            130,
            "Interrupted: saved; resume with: imgtf prior train --model 'my model' --resume",
        ),
        (KeyboardInterrupt(), 130, "Interrupted."),
        (PermissionError(13, "Permission denied", "x"), 1, "Error: x: Permission denied"),
        (MemoryError(), 1, "Error: out of memory; lower --batch-size or the size of the network"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
            1,
            "Error: out of memory; lower --batch-size or the size of the network",
        ),
    ],
)
def test_expected_errors_end_in_one_line(
    error: BaseException, code: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(cli, "invoke", fail)
    assert exit_code("info") == code
    assert capsys.readouterr().err.strip() == line


def test_an_unexpected_error_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr(cli, "invoke", fail)
    with pytest.raises(RuntimeError, match="a fault"):
        main(["info"])


def test_every_setting_is_read_somewhere() -> None:
    """Each field of a configuration is read as an attribute, or is the weight of a loss that is named."""
    folders = ("tokenizer", "prior", "training", "data", "pipelines", "bench")
    text = "\n".join(p.read_text() for folder in folders for p in (ROOT / folder).rglob("*.py"))
    names = {name for cls in (*TOKENIZER_CLASSES, *PRIOR_CLASSES, BenchConfig) for name in option_names(cls)}
    unread = [name for name in sorted(names) if not re.search(rf"\.{name}\b", text)]
    assert [name for name in unread if f'"{name.removesuffix("_weight")}"' not in text] == []


@pytest.mark.parametrize("start", [["-m", "imgtf"], [str(Path(sys.executable).with_name("imgtf"))]])
def test_names_of_files_are_utf8_in_every_locale(start: list[str], tmp_path: Path) -> None:
    for name in ("\u732b", "\u72ac"):
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.new("L", (8, 8), i * 20 + (name == "\u732b")).save(tmp_path / name / f"{i}.png")
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, *start, "data", str(tmp_path)]
    done = subprocess.run(command, env=os.environ | locale, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "\u72ac (3), \u732b (3)" in done.stdout.decode("utf-8")
