"""Hooks of mkdocs for the docs site.

The pages are written for GitHub. These hooks let mkdocs read them as GitHub does: links to files outside of docs/
become links to pages of the site, and lists need neither an empty line before them nor four spaces of indentation.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "README.md": "overview.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "LICENSE": "license.md",
    "benchmarks/RESULTS.md": "results.md",
    "notebooks/own-images.ipynb": "notebooks/own-images.md",
    "notebooks/published-model.ipynb": "notebooks/published-model.md",
}
"""Files outside of docs/ that are pages of the site. Other files that a page links to are shown under source/."""
LINK = re.compile(r"(?<=\]\()([^)\s#:]+)(?=[)#])")
HIDDEN = {"index.md": ["navigation", "toc"], "comparison.md": ["toc"]}
"""What is not shown beside wide pages."""
CONTENTS = re.compile(r"\n(?:- \[[^\]]*\]\(#[^)]*\)\n)+")
ITEM = re.compile(r"(?:-|\d+\.) ")

sources: dict[str, str] = {}
"""The file of each page that does not lie in docs/: name in the site -> path in the repository."""
folders: list[str] = []
"""Folders to remove at the end."""


@event_priority(100)  # before mkdocstrings reads its settings
def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Show mkdocstrings where the code is."""
    plugin = config.plugins.get("mkdocstrings")
    if plugin is not None:
        folders.append(tempfile.mkdtemp(prefix="imgtf-docs-"))
        link_packages(Path(folders[-1]) / "imgtf")
        plugin.config["handlers"]["python"]["paths"] = folders[-1:]
    return config


def on_shutdown() -> None:
    """Remove the links."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def link_packages(folder: Path) -> None:
    """Make a folder of links to the packages and modules alone. The root, where they are, also holds .venv."""
    folder.mkdir()
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    names = {name.split(".")[1] for name in settings["tool"]["setuptools"]["packages"] if "." in name}
    for path in [*ROOT.glob("*.py"), *(ROOT / name for name in sorted(names))]:
        (folder / path.name).symlink_to(path)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that do not lie in docs/, and the files that pages link to."""
    pages = {name: uri for name, uri in PAGES.items() if (ROOT / name).exists()}
    own = [f"docs/{file.src_uri}" for file in files.documentation_pages()]
    linked = sorted({target for name in [*own, *pages] for target in targets(name)} - {*own, *pages})
    outside = [name for name in linked if not name.startswith("docs/") and (ROOT / name).is_file()]
    pages |= {name: f"source/{name.replace('.', '-')}.md" for name in outside}
    for name, uri in pages.items():
        sources[uri] = name
        files.append(File.generated(config, uri, content=page_of(name)))
    return files


def targets(name: str) -> Iterator[str]:
    """The files of the repository that a page links to."""
    text = page_of(name)
    for link in LINK.findall(text):
        yield os.path.normpath(PurePosixPath(name).parent / link).replace(os.sep, "/")


def page_of(name: str) -> str:
    """The Markdown of a file of the repository."""
    text = (ROOT / name).read_text(encoding="utf-8")
    if name.endswith(".md"):
        return text
    if name.endswith(".ipynb"):
        return notebook(json.loads(text))
    language = {".py": "python", ".toml": "toml", ".sh": "sh"}.get(Path(name).suffix, "text")
    return f"---\nsearch:\n  exclude: true\n---\n\n# {name}\n\n````{language}\n{text}\n````\n"


def notebook(content: dict[str, Any]) -> str:
    """The cells of a notebook with their outputs."""
    parts = []
    for cell in content["cells"]:
        text = "".join(cell["source"])
        parts.append(f"```python\n{text}\n```" if cell["cell_type"] == "code" else text)
        parts += [output(one) for one in cell.get("outputs", ())]
    return "\n\n".join(parts)


def output(one: dict[str, Any]) -> str:
    """An output of a cell: a picture or text."""
    data = one.get("data", {})
    if "image/png" in data:
        return f"![Output of the cell](data:image/png;base64,{''.join(data['image/png'].split())})"
    text = "".join(data.get("text/plain", one.get("text", "")))
    return f"```text\n{text.rstrip()}\n```"


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Read a page as GitHub does."""
    name = sources.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def moved(match: re.Match[str]) -> str:
        return link_in_site(match[0], name, page.file.src_uri, files)

    page.meta["hide"] = HIDDEN.get(page.file.src_uri, ["navigation"] if name.endswith(".py") else [])
    markdown = CONTENTS.sub("\n", markdown, count=1)  # the site has a table of contents beside the page
    return outside_of_code(markdown, lambda text: LINK.sub(moved, lists(text)))


def link_in_site(link: str, name: str, uri: str, files: Files) -> str:
    """The link from a page of the site to what the file `name` of the repository links to; unchanged if unknown."""
    target = os.path.normpath(PurePosixPath(name).parent / link).replace(os.sep, "/")
    places = {source: place for place, source in sources.items()}
    place = places.get(target, target.removeprefix("docs/"))
    if files.get_file_from_path(place) is None:
        return link  # mkdocs warns
    return os.path.relpath(place, PurePosixPath(uri).parent).replace(os.sep, "/")


def outside_of_code(markdown: str, change: Callable[[str], str]) -> str:
    """Change the text between fenced blocks of code."""
    parts = re.split(r"(^ *```.*?^ *```+$)", markdown, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if i % 2 else change(part) for i, part in enumerate(parts))


def lists(text: str) -> str:
    """Separate lists from the line before, and indent what belongs to an item by four spaces."""
    lines: list[str] = []
    in_list = False
    for line in text.split("\n"):
        indent = len(line) - len(line.lstrip())
        if ITEM.match(line):
            if not in_list and lines and lines[-1]:
                lines.append("")
            in_list = True
        elif line and not indent and (not lines or not lines[-1]):
            in_list = False  # a paragraph after the list
        if in_list and 2 <= indent <= 3:
            line = " " * 4 + line.lstrip()
        lines.append(line)
    return "\n".join(lines)
