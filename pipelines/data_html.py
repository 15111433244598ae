"""The report of `imgtf data` as one HTML page without other files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from PIL import Image

from ..data.grid import draw_grid
from ..data.sample import SIDE
from ..options import size_text
from .data_report import SHEET_IMAGES, DataReport
from .data_text import counts, to_lines
from .html_page import data_uri, render, safe


def to_html(report: DataReport) -> str:
    """Return the page. Images are embedded, nothing is loaded from elsewhere."""
    facts = report.facts
    sections = {
        "Contact sheet": "".join(_strip(name, images, facts) for name, images in report.sheet.items()),
        "Sizes (shorter side in pixels)": _bars(_sides(facts)) + _small(facts["sizes"]["shapes"], "shapes"),
        "Classes": _bars(facts["classes"]["images"]),
        "Captions": _list(facts["captions"].get("examples", ())),
        "Files": _bars(facts["kinds"]["formats"]) + _small(facts["kinds"]["modes"], "modes")
        + _small(facts["kinds"]["bits"], "bits per channel") + _small(facts["other_files"], "other files"),
        "Images that look alike": "".join(_strip(name, images, facts) for name, images in report.alike.items()),
        "Equal images": _list(" = ".join(group) for group in facts["duplicates"]["exact_groups"]),
        "Broken images": _list(facts["broken"]),
        "All facts": f"<table>{''.join(map(_row, to_lines(facts)))}</table>",
    }  # fmt: skip
    return render(
        "data.html",
        title=f"Data: {facts['source']}",
        cards=_cards(facts),
        warnings=_warnings(facts),
        sections={name: safe(body) for name, body in sections.items()},
        seconds=facts["seconds"],
    )


def _cards(facts: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    fits = facts["fits"]
    yield "images found", f"{facts['found']:,}"
    yield "images used", f"{facts['used']:,}"
    yield "classes", f"{facts['classes']['count']:,}"
    yield "captions", f"{facts['captions']['count']:,}"
    yield "typical side", f"{facts['sizes']['typical_side']} px"
    if "image_size" in fits:
        yield "preset that fits", f"{fits['preset']} ({size_text(fits['image_size'])} px)"


def _warnings(facts: Mapping[str, Any]) -> list[str]:
    broken = [f"images that cannot be read: {len(facts['broken']):,}"] if facts["broken"] else []
    fits = facts["fits"]
    return [*broken, *facts["notes"], *fits.get("hints", ()), *filter(None, [fits.get("problem")])]


def _row(line: str) -> str:
    return f"<tr><th>{escape(line[:16].strip())}</th><td>{escape(line[17:])}</td></tr>"


def _sides(facts: Mapping[str, Any]) -> dict[str, int]:
    bars = facts["sizes"]["histogram"]
    return {f"{b['from']}" + (f" to {b['to']}" if b["to"] > b["from"] else ""): b["count"] for b in bars}


def _bars(values: Mapping[str, int], most: int = 60) -> str:
    top = max(values.values(), default=1) or 1
    rows = [
        f'<tr><th>{escape(str(name))}</th><td class="number">{count:,}</td>'
        f'<td class="bar"><div style="width:{100 * count / top:.1f}%"></div></td></tr>'
        for name, count in list(values.items())[:most]
    ]
    more = f"<p>and {len(values) - most:,} more</p>" if len(values) > most else ""
    return f"<table>{''.join(rows)}</table>{more}" if rows else ""


def _small(values: Mapping[str, int], name: str) -> str:
    return f"<p>{name}: {escape(counts(values))}</p>" if values else ""


def _list(items: Iterable[str]) -> str:
    body = "".join(f"<li>{escape(str(item))}</li>" for item in items)
    return f"<ul>{body}</ul>" if body else ""


def _strip(name: str, images: Sequence[Image.Image], facts: Mapping[str, Any]) -> str:
    """The thumbnails of one class as an embedded PNG, with a caption in HTML, which has every letter."""
    count = facts["classes"]["images"].get(name)
    caption = escape(name if count is None else f"{name} ({count:,})")
    cells = [image.resize((SIDE, SIDE), Image.Resampling.BICUBIC) for image in images]
    sheet = draw_grid(cells, columns=min(SHEET_IMAGES, len(cells)), scale=1)
    picture = f'<img alt="{caption}" src="{data_uri(sheet)}">'
    return f"<figure><figcaption>{caption}</figcaption>{picture}</figure>\n"
