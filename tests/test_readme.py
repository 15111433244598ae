"""The README's commands and its Python run as they stand, at tiny sizes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from .pipelines.conftest import SMALL_PRIOR, SMALL_TOKENIZER, draw_images, run

README = (Path(__file__).parents[1] / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[list[str]]:
    lines = [line for block in blocks("bash") for line in block.splitlines() if line.strip()]
    return [shlex.split(line, comments=True) for line in lines]


def test_every_command_and_the_python_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    draw_images(tmp_path / "my-images")
    (tmp_path / "my-images" / "red").rename(tmp_path / "my-images" / "cat")
    assert len(commands()) > 8
    for command in commands():
        assert command[0] == "imgtf"
        small = {"tokenizer": SMALL_TOKENIZER, "prior": SMALL_PRIOR}.get(command[1], [])
        small = [*small, "--steps", "2"] if command[2:3] == ["train"] else []
        assert run(*command[1:], *small) == 0, command
    assert (tmp_path / "model" / "samples" / "001" / "grid.png").exists()
    assert (tmp_path / "reconstructions" / "1.png").exists()
    for block in blocks("python"):
        exec(block, {})
    assert (tmp_path / "first.png").exists()


def test_every_file_it_names_is_there() -> None:
    root = Path(__file__).parents[1]
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert [link for link in links if not (root / link).exists()] == []
    tree = README.split("## Where is what")[1].split("```")[1]
    rooms: dict[str, str] = {}
    room = ""
    for line in tree.splitlines():
        heading = re.match(r"([\w/]+)/ ", line)
        room = heading[1] if heading else "" if not line.startswith(" ") else room
        for name in re.findall(r"[\w.]+\.(?:py|toml)", line):
            rooms[f"{room}/{name}" if room else name] = line
    assert [path for path in rooms if not (root / path.lstrip("/")).exists()] == []
    assert len(rooms) > 30


def test_every_module_is_in_the_tree() -> None:
    root = Path(__file__).parents[1]
    tree = README.split("## Where is what")[1]
    found = [*root.glob("[a-z]*/*.py"), *root.glob("pipelines/*/*.py")]
    rooms = [p for p in found if p.parent.name not in ("tests", "benchmarks")]
    modules = [*root.glob("*.py"), *rooms]
    names = {p.name for p in modules if not p.name.startswith("__")}
    assert sorted(name for name in names if name not in tree) == []
