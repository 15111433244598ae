"""Who may import whom (see the README's file tree): arrows only point down."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOOR = {"errors", "options", "pretrained"}
MAY_IMPORT = {
    "cli": {"pipelines", "tokenizer", "prior", "training", "data", "interop"},
    "pipelines": {"interop", "tokenizer", "prior", "training", "data"},
    "interop": {"tokenizer", "prior"},
    "tokenizer": {"training", "data"},
    "prior": {"training", "data"},
    "training": set(),
    "data": set(),
}


def imports(path: Path) -> set[str]:
    """The rooms and root modules that a file imports by relative imports."""
    depth = len(path.relative_to(ROOT).parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == depth:
            found |= {node.module.split(".")[0]} if node.module else {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("room", list(MAY_IMPORT))
def test_arrows_only_point_down(room: str) -> None:
    files = [ROOT / f"{room}.py"] if room == "cli" else list((ROOT / room).rglob("*.py"))
    allowed = MAY_IMPORT[room] | FLOOR | {room}
    wrong = {
        str(f.relative_to(ROOT)): sorted(imports(f) - allowed)
        for f in files
        if f.exists() and imports(f) - allowed
    }
    assert wrong == {}


def test_only_the_command_line_knows_click() -> None:
    files = [p for room in MAY_IMPORT for p in (ROOT / room).rglob("*.py")]
    assert [p.name for p in files if "import click" in p.read_text()] == []
