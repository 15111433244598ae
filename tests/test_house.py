"""Structure of the code: who may import whom, no circular imports, sizes of files and functions, click and print."""

from __future__ import annotations

import ast
import tomllib
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).parents[1]
FLOOR = {"errors", "options", "pretrained"}
STAGE = {"nn", "training", "data", "runtime"}
EVALUATION = {"tokenizer", "prior"} | STAGE
PIPELINES = {"evaluation", "interop"} | EVALUATION
MAY_IMPORT = {
    "__init__": {"pipelines"} | PIPELINES,
    "__main__": {"cli"},
    "cli": {"commands", "__init__"},
    "commands": {"bench", "serving", "web", "pipelines", "__init__"} | PIPELINES,
    "serving": {"pipelines"} | PIPELINES,
    "web": {"pipelines"} | PIPELINES,
    "bench": {"pipelines"} | PIPELINES,
    "pipelines": PIPELINES,
    "evaluation": EVALUATION,
    "interop": {"tokenizer", "prior", "nn", "runtime"},
    "tokenizer": STAGE,
    "prior": STAGE,
    "nn": {"runtime"},
    "training": {"runtime"},
    "data": {"runtime"},
    "runtime": set(),
    "pretrained": {"runtime"},
    "options": set(),
    "errors": set(),
}
"""Packages and root modules that each package or root module may import, besides itself and the floor."""
FLOOR_OF = {
    "runtime": {"errors"},
    "pretrained": {"errors", "options"},
    "options": {"errors"},
    "errors": set(),
}
MAX_LINES = 300


def modules(unit: str) -> list[Path]:
    """The files of a package or root module."""
    return sorted((ROOT / unit).rglob("*.py")) if (ROOT / unit).is_dir() else [ROOT / f"{unit}.py"]


def name(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def file_of(path: Path) -> Path | None:
    """The file of a module path without suffix: a module, or the __init__ of a package."""
    return next((f for f in (path.with_suffix(".py"), path / "__init__.py") if f.is_file()), None)


@cache
def imports(file: Path) -> frozenset[Path]:
    """The files of this repository that a file imports, also inside functions and under TYPE_CHECKING."""
    found: set[Path | None] = set()
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
            found |= {file_of(ROOT.joinpath(*parts[1:])) for parts in names if parts[0] == "imgtf"}
        elif isinstance(node, ast.ImportFrom):
            parts = (node.module or "").split(".") if node.module else []
            if node.level:
                base = file.parents[node.level - 1].joinpath(*parts)
            elif parts[:1] == ["imgtf"]:
                base = ROOT.joinpath(*parts[1:])
            else:
                continue
            # `from .package import module` imports the file of the module, where there is one.
            found |= {file_of(base / alias.name) or file_of(base) for alias in node.names}
    return frozenset(path for path in found if path is not None)


def unit_of(file: Path) -> str:
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


def external_imports(file: Path) -> set[str]:
    """The top-level packages outside this repository that a file imports."""
    nodes = list(ast.walk(tree(file)))
    names = {alias.name.split(".")[0] for n in nodes if isinstance(n, ast.Import) for alias in n.names}
    return names | {
        n.module.split(".")[0] for n in nodes if isinstance(n, ast.ImportFrom) and not n.level and n.module
    }


@pytest.mark.parametrize("unit", list(MAY_IMPORT))
def test_imports_only_point_down(unit: str) -> None:
    allowed = MAY_IMPORT[unit] | FLOOR_OF.get(unit, FLOOR) | {unit}
    wrong = {
        name(file): sorted(name(other) for other in imports(file) if unit_of(other) not in allowed)
        for file in modules(unit)
    }
    wrong = {file: others for file, others in wrong.items() if others}
    assert wrong == {}, f"{unit} may import {', '.join(sorted(allowed))} only"


@pytest.mark.parametrize("unit", [unit for unit in MAY_IMPORT if (ROOT / unit).is_dir()])
def test_no_circular_imports_inside_a_package(unit: str) -> None:
    files = set(modules(unit))
    graph = TopologicalSorter({file: (imports(file) & files) - {file} for file in files})
    try:
        graph.prepare()
    except CycleError as error:
        circle = " <- ".join(name(file) for file in error.args[1])
        pytest.fail(f"circular imports: {circle}", pytrace=False)


def test_only_the_command_line_knows_click() -> None:
    files = [file for unit in MAY_IMPORT if unit not in ("cli", "commands") for file in modules(unit)]
    wrong = [name(file) for file in files if external_imports(file) & {"click", "rich_click"}]
    assert wrong == [], "only cli.py and commands/ may import click"


def test_only_commands_print() -> None:
    files = [file for unit in MAY_IMPORT if unit != "commands" for file in modules(unit)]
    wrong = [
        f"{name(file)}:{node.lineno}"
        for file in files
        for node in ast.walk(tree(file))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert wrong == [], "only commands/ may print; the library logs or returns"


def test_no_file_is_longer_than_300_lines() -> None:
    files = [file for unit in [*MAY_IMPORT, "benchmarks"] for file in modules(unit)]
    lines = {name(file): len(file.read_text(encoding="utf-8").splitlines()) for file in files}
    assert {file: n for file, n in lines.items() if n > MAX_LINES} == {}, f"more than {MAX_LINES} lines"


def test_functions_are_small() -> None:
    """Lines with signature and docstring: at most 6 in the median, at most 18 in 90 % of the functions."""
    functions = sorted(
        (node.end_lineno - node.lineno + 1, f"{name(file)}:{node.lineno} {node.name}")
        for unit in MAY_IMPORT
        for file in modules(unit)
        for node in ast.walk(tree(file))
        if isinstance(node, ast.FunctionDef)
    )
    lengths = [length for length, _ in functions]
    found = (median(lengths), lengths[int(0.9 * len(lengths))])
    assert found[0] <= 6 and found[1] <= 18, f"{found}; the longest are {functions[-8:]}"  # noqa: PT018


def test_every_package_is_installed_and_checked() -> None:
    packages = {p.parent.relative_to(ROOT) for unit in MAY_IMPORT for p in (ROOT / unit).rglob("*.py")}
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert {".".join(("imgtf", *p.parts)) for p in packages} | {"imgtf"} == set(listed)
    modules_at_root = {file.stem for file in ROOT.glob("*.py")}
    tops = {p.parts[0] for p in packages} | modules_at_root
    assert tops == set(MAY_IMPORT), "add the package or root module to MAY_IMPORT"
