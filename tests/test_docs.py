"""The docs site builds without a warning, loads nothing from a network, and documents every public name."""

from __future__ import annotations

import importlib.util
import inspect
import os
import re
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import imgtf

ROOT = Path(__file__).parents[1]
LOADING = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}
"""Elements that make a browser load something, and their attribute."""


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    """The hooks of mkdocs, which are not part of the package."""
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs" / "site_hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site. Four seconds on one idle core, with the API reference."""
    folder = tmp_path_factory.mktemp("docs") / "site"
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr[-3000:]
    assert "WARNING" not in built.stderr
    return folder


class Loaded(HTMLParser):
    """The addresses that a page loads from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.external: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        address = dict(attrs).get(LOADING.get(tag, "")) or ""
        if address.startswith(("http:", "https:", "//")):
            self.external.append(address)


def test_the_site_loads_nothing_from_a_network(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 30
    external = {}
    for page in pages:
        parser = Loaded()
        parser.feed(page.read_text(encoding="utf-8"))
        external[page.relative_to(site).as_posix()] = parser.external
    assert {page: found for page, found in external.items() if found} == {}


def test_files_outside_of_docs_are_pages(site: Path) -> None:
    for page, text in {
        "overview": "Three commands",
        "results": "Prior recipe",
        "changelog": "0.1.0",
        "notebooks/own-images": "data:image/png;base64",
        "source/tokenizer/quantizer-py": "class VectorQuantizer",
    }.items():
        html = re.sub(r"</?span[^>]*>", "", (site / page / "index.html").read_text(encoding="utf-8"))
        assert text in html, page


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    html = "".join(page.read_text(encoding="utf-8") for page in (site / "api").rglob("*.html"))
    anchors = set(re.findall(r'id="(imgtf\.[\w.]+)"', html))
    assert {f"imgtf.{name}" for name in imgtf.__all__ if name != "__version__"} - anchors == set()
    methods = {
        f"imgtf.Pipeline.{name}"
        for name, _ in inspect.getmembers(imgtf.Pipeline, callable)
        if not name.startswith("_")
    }
    assert methods - anchors == set(), "add these to docs/api/pipeline.md"


def test_settings_are_listed_with_their_help_and_range(site: Path) -> None:
    html = (site / "api" / "sampling" / "index.html").read_text(encoding="utf-8")
    text = " ".join(re.sub(r"<[^>]+>", " ", html).split())
    assert "Keep only the k most likely codes; 0 keeps all. At least 0" in text
    assert "option(" not in text


def test_lists_are_read_as_on_github(hooks: ModuleType) -> None:
    text = "**Data**\n- one\n  more\n\n  | a |\n- two\n\nA paragraph.\n  indented"
    assert hooks.lists(text) == (
        "**Data**\n\n- one\n    more\n\n    | a |\n- two\n\nA paragraph.\n  indented"
    )
    code = "```\n- a\n  b\n```\n"
    assert hooks.outside_of_code(code, hooks.lists) == code


def test_the_citation_names_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
