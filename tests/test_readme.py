"""README and docs: their examples run at tiny sizes, their links, options and commands exist.

Blocks marked `bash` and `python` are run in the order of the page. Blocks marked `sh` and inline commands are only
parsed: they need a network, several processes or other data.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from functools import cache, partial
from pathlib import Path
from typing import Any

import click
import pytest

import imgtf
from imgtf.cli import cli

from .pipelines.conftest import SMALL_PRIOR, SMALL_TOKENIZER, draw_images, run

ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
LINKED = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/RESULTS.md")]
PAGES = [ROOT / "README.md", *(page for page in DOCS if page.name not in ("LOG.md", "extending.md"))]
"""Pages for users. The log names options that were tried and dropped, the guide to extensions invents some."""
STEPS = ["--steps", "2"]
SMALL = {
    ("tokenizer", "train"): [*SMALL_TOKENIZER, *STEPS],
    ("prior", "train"): [*SMALL_PRIOR, *STEPS],
    ("sample",): ["--n", "2"],
}
"""Options that make a command fast. The last value of an option counts."""
SMALL_TRAINING: dict[str, Any] = {
    "image_size": 16, "multipliers": (1, 2), "latent_width": 8, "norm_groups": 4, "codebook_size": 16,
    "codebook_dim": 4,
}  # fmt: skip
LAUNCHERS = ("accelerate launch -m imgtf", "torchrun --nproc_per_node 8 -m imgtf")
PLACEHOLDERS = {"COMMAND", "FAMILY", "NAME"}
"""Words that stand for a command or a choice."""
FOREIGN_OPTIONS = {
    "--nproc_per_node", "--extra-index-url", "--find-links", "--no-index", "--pip-args", "--spec", "--build-arg",
    "--gpus", "--rm", "--user", "--nnodes", "--rdzv_id", "--rdzv_backend", "--rdzv_endpoint", "--job-name", "--nodes",
    "--ntasks-per-node", "--gpus-per-node", "--cpus-per-task", "--time", "--signal", "--requeue", "--sort",
}  # fmt: skip
"""Options of other programs: torchrun, pip, pipx, docker, Slurm, tar."""


def blocks(page: Path, language: str) -> list[str]:
    """The contents of the code blocks of a language."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return [text for name, text in found if name == language]


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def commands(text: str) -> list[list[str]]:
    """The arguments of every `imgtf` command, one per line of the text."""
    for launcher in LAUNCHERS:
        text = text.replace(launcher, "imgtf")
    lines = (shlex.split(line, comments=True) for line in text.splitlines() if line.startswith("imgtf "))
    return [line[1:] for line in lines if not PLACEHOLDERS & set(line)]


def named_commands(page: Path) -> list[list[str]]:
    """Every command of a page: in code blocks and inline."""
    code = "".join(blocks(page, "bash") + blocks(page, "sh") + blocks(page, ""))
    inline = re.findall(r"`([^`\n]+)`", prose(page))
    return commands(code + "\n" + "\n".join(line for line in inline if " ..." not in line))


def leaf(arguments: list[str]) -> tuple[click.Command, list[str]]:
    """The command that the arguments name, and the arguments left for it."""
    command: click.Command = cli
    while isinstance(command, click.Group) and arguments and not arguments[0].startswith("-"):
        name, arguments = arguments[0], arguments[1:]
        found = command.get_command(click.Context(command), name)
        assert found is not None, f"no command {name}"
        command = found
    return command, arguments


@cache
def known_options() -> frozenset[str]:
    """Every long option of every command."""

    def walk(command: click.Command) -> set[str]:
        context = click.Context(command)
        own = {name for param in command.get_params(context) for name in (*param.opts, *param.secondary_opts)}
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                own |= walk(command.get_command(context, name))  # type: ignore[arg-type]
        return own

    return frozenset(walk(cli))


def slugs(page: Path) -> set[str]:
    """The anchors of a page, as GitHub names them."""
    seen: Counter[str] = Counter()
    found = set()
    for heading in re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


def links(page: Path) -> list[str]:
    """The relative links of a page, to files, images and anchors."""
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with images in the classes cat and dog."""
    monkeypatch.chdir(tmp_path)
    images = draw_images(tmp_path / "my-images")
    (images / "red").rename(images / "cat")
    (images / "green").rename(images / "dog")
    return tmp_path


def run_commands(page: Path) -> int:
    """Run every line of the `bash` blocks at tiny sizes; return their number."""
    lines = commands("".join(blocks(page, "bash")))
    for line in lines:
        small = next((own for name, own in SMALL.items() if tuple(line[: len(name)]) == name), [])
        assert run(*line, *small) == 0, line
    return len(lines)


def test_the_readme_works(folder: Path) -> None:
    assert run_commands(ROOT / "README.md") == 3
    assert (folder / "model" / "samples" / "001" / "grid.png").exists()
    for block in blocks(ROOT / "README.md", "python"):
        exec(block, {})
    assert (folder / "first.png").exists()
    assert (folder / "decoded.png").exists()


def test_the_tutorial_works(folder: Path) -> None:
    assert run_commands(ROOT / "docs" / "tutorial.md") == 7
    assert (folder / "reconstructed" / "1.png").exists()
    assert (folder / "model" / "samples" / "002" / "000001.png").exists()


def test_the_python_page_works(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"batch_size": 8, "eval_every": 4, "width": 16}
    for name, more in (("train_tokenizer", SMALL_TRAINING), ("train_prior", {"depth": 2, "heads": 2})):
        train = partial(quick, getattr(imgtf, name), small | more)
        monkeypatch.setattr(imgtf, name, train, raising=False)
    namespace: dict[str, Any] = {}
    for block in blocks(ROOT / "docs" / "python.md", "python"):
        exec(block, namespace)
    assert (folder / "completed.png").exists()
    assert len(namespace["images"]) == 4


def quick(train: Any, small: dict[str, Any], model: str, **settings: Any) -> Any:
    """Train with the settings of the page, but with few steps and at a tiny size."""
    return train(model, **settings | small | {"steps": 2})


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def fault(command: click.Command, arguments: list[str]) -> str:
    """What is wrong with the arguments of a command; empty if nothing. Nothing is run."""
    try:
        command.make_context("imgtf", list(arguments))
    except click.exceptions.Exit:  # --help
        return ""
    except click.MissingParameter as error:  # a page may name a command without its arguments
        return str(error) if any(argument.startswith("--") for argument in arguments) else ""
    except click.UsageError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("page", [*LINKED, *DOCS], ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    wrong = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in slugs(target)):
            wrong.append(link)
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_option_exists(page: Path) -> None:
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9_-]*", page.read_text())) - FOREIGN_OPTIONS
    assert sorted(named - known_options()) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_can_be_parsed(page: Path) -> None:
    for arguments in named_commands(page):
        command, rest = leaf(arguments)
        if isinstance(command, click.Group) or "--config" in rest or "|" in rest:
            continue
        assert fault(command, rest) == "", " ".join(arguments)


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_every_page_has_a_table_of_contents(page: Path) -> None:
    top, *sections = re.split(r"^## ", prose(page), flags=re.MULTILINE)
    linked = {link.removeprefix("#") for link in re.findall(r"\]\((#[^)]+)\)", top)}
    if page.name == "index.md":
        assert {other.name for other in DOCS if other != page} <= set(links(page))
        return
    assert sections, "a page has sections"
    wanted = {re.sub(r"[^\w\- ]", "", s.splitlines()[0].lower()).replace(" ", "-") for s in sections}
    assert wanted - linked == set()


def test_the_file_tree_is_complete() -> None:
    tree = max(blocks(ROOT / "docs" / "architecture.md", ""), key=len)
    listed, folders = set(), [""]
    for line in tree.splitlines():
        depth, name = (len(line) - len(line.lstrip())) // 2, line.split()[0]
        folders = [*folders[: depth + 1], folders[depth] + name]
        listed.add(folders[-1])
    modules = {path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py")}
    hidden = re.compile(r"(tests|benchmarks|build|demo|\.\w+)/|.+/__init__\.py")
    modules = {path for path in modules if not hidden.match(path)}
    assert modules - listed == set(), "add a line for each to the file tree in docs/architecture.md"
    assert {path for path in listed if not (ROOT / path).exists()} == set(), "remove these from the file tree"


def test_the_checks_find_faults(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# Page\n\n[gone](gone.md) [there](#a-section)\n\n`imgtf sample --nn 3`\n\n## A section!\n"
    )
    assert links(page) == ["gone.md", "#a-section"]
    assert slugs(page) == {"page", "a-section"}
    assert "No such option" in fault(*leaf(named_commands(page)[0]))
    assert fault(*leaf(["sample", "--n", "3"])) == ""
    with pytest.raises(AssertionError, match="no command draw"):
        leaf(["draw"])
