"""The worked examples of docs/extending.md: applied to a copy of the package, and run."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from os import environ
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
MOST_FILES = 4
"""Files that an extension may touch, besides tests and docs."""


def blocks(language: str, text: str = PAGE) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.S | re.M)


def sections() -> list[tuple[str, str]]:
    """Title and text of each example."""
    parts = re.split(r"^## (.+)\n", PAGE, flags=re.M)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


def copy_package(target: Path) -> None:
    """The source code of the package, without tests and benchmarks."""
    skipped = {"tests", "benchmarks", "build", "demo", "docs"}
    for path in ROOT.rglob("*"):
        name = path.relative_to(ROOT)
        hidden = any(part.startswith(".") for part in name.parts)
        if path.suffix in (".py", ".toml", ".typed", ".html") and not hidden and name.parts[0] not in skipped:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target / name)


@pytest.mark.parametrize(("title", "text"), sections())
def test_an_extension_touches_few_files(title: str, text: str) -> None:
    (diff,) = blocks("diff", text)
    files = re.findall(r"^\+\+\+ b/(.+)$", diff, re.M)
    assert 1 <= len(files) <= MOST_FILES
    anchor = title.lower().replace(" ", "-")
    assert f"[{title}](#{anchor}): {len(files)} file" in PAGE


def test_the_examples_apply_and_run(tmp_path: Path) -> None:
    package = tmp_path / "imgtf"
    copy_package(package)
    for diff in blocks("diff"):
        applied = subprocess.run(
            ["git", "apply", "-C1", "-"], input=diff, cwd=package, capture_output=True, text=True
        )
        assert applied.returncode == 0, applied.stderr
    program = tmp_path / "examples.py"
    program.write_text("\n".join(blocks("python")))
    work = tmp_path / "work"
    work.mkdir()
    done = subprocess.run(
        [sys.executable, program],
        cwd=work, env=environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert (work / "model" / "prior" / "model.safetensors").exists()
