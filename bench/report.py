"""The figures as a Markdown table for people and JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..pretrained import write_text

NOTES = """
tokens/s and images/s: of finished images; guidance computes two rows an image. Share of limit: the least time that the
machine needs, over the time taken; it must read all weights and the filled cache once a step, and do all operations, at
the speeds of "limits", whichever takes longer. MFU: operations of forward and backward pass, causal attention counted
once, over time and the speed of a matrix product. Peak MiB: of the whole process on a CPU, of torch's tensors on a GPU.
Medians over the rounds; what is compared took turns.
"""

Row = dict[str, Any]
"""One line of a table: figures by their names; None where one could not be had."""


def to_markdown(report: dict[str, Any]) -> str:
    """A heading, what it was measured on, and a table for each list of rows."""
    lines = ["# imgtf bench", ""]
    for name, value in report.items():
        if isinstance(value, dict):
            lines += [f"- {name}: " + ", ".join(f"{key} {_cell(v)}" for key, v in value.items())]
        elif isinstance(value, list):
            lines += ["", f"## {name.capitalize()}", "", *_table(value)]
        else:
            lines += [f"- {name}: {_cell(value)}"]
    return "\n".join(lines) + "\n" + NOTES


def targets(out: Path, force: bool) -> tuple[Path, Path]:
    """The Markdown and the JSON file that belong to `out`.

    Raises:
        ConfigError: when one of them is there and `force` is not given.
    """
    files = (out.with_suffix(".md"), out.with_suffix(".json"))
    for file in files:
        if file.exists() and not force:
            raise ConfigError(f"{file} is there already: name another file with --out, or use --force")
    return files


def save(report: dict[str, Any], out: Path, force: bool) -> tuple[Path, Path]:
    """Writes `out` as .md and .json."""
    markdown, plain = targets(out, force)
    markdown.parent.mkdir(parents=True, exist_ok=True)
    write_text(markdown, to_markdown(report))
    write_text(plain, json.dumps(report, indent=2) + "\n")
    return markdown, plain


def mebibytes(count: int | None) -> float | None:
    """Bytes in MiB."""
    return None if count is None else round(count / 2**20, 1)


def _table(rows: Sequence[Row]) -> list[str]:
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    return lines + ["| " + " | ".join(_cell(row.get(name)) for name in names) + " |" for row in rows]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)
