"""Results as a Markdown table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..pipelines.files import check_files
from ..pretrained import write_text

NOTES = """
- Times are medians over the rounds. All cases of a table are measured in turn in each round.
- tokens/s and images/s count finished images. Guidance computes two rows per image.
- Fraction of the limit: the shortest possible time divided by the measured time. A step has to read all weights and the
  filled cache once, and to do all operations; the shortest possible time is the longer of the two at the speeds in
  "limits".
- MFU (model FLOP utilisation): operations of the forward and backward pass per second, divided by the FLOP/s of a
  matrix product. Causal attention counts once.
- Peak MiB: of the whole process on a CPU, of torch's tensors on a GPU.
"""

Row = dict[str, Any]
"""One row of a table by column; None where a value could not be measured."""


def to_markdown(report: dict[str, Any]) -> str:
    """Return the report as Markdown: what was measured on what machine, and a table per list of rows."""
    lines = ["# imgtf bench", ""]
    for name, value in report.items():
        if isinstance(value, dict):
            lines += [f"- {name}: " + ", ".join(f"{key} {_cell(v)}" for key, v in value.items())]
        elif isinstance(value, list):
            lines += ["", f"## {name.capitalize()}", "", *_table(value)]
        else:
            lines += [f"- {name}: {_cell(value)}"]
    return "\n".join([*lines, "", "## Notes"]) + "\n" + NOTES


def output_files(out: Path, force: bool) -> tuple[Path, Path]:
    """Return the Markdown and the JSON file of `out`.

    Raises:
        ConfigError: one of them exists and `force` is not given, or the folder cannot be written.
    """
    files = (out.with_suffix(".md"), out.with_suffix(".json"))
    check_files(files, force)
    return files


def save(report: dict[str, Any], out: Path, force: bool) -> tuple[Path, Path]:
    """Write the report as `out`.md and `out`.json; return both paths. Raises as `output_files`."""
    markdown, plain = output_files(out, force)
    markdown.parent.mkdir(parents=True, exist_ok=True)
    write_text(markdown, to_markdown(report))
    write_text(plain, json.dumps(report, indent=2) + "\n")
    return markdown, plain


def mebibytes(count: int | None) -> float | None:
    """Return bytes in MiB."""
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
