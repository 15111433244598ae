"""The report of `imgtf data` as lines of text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..data.findings import STREAMED
from ..options import sides_of
from .info import mebibytes

MOST = 8
"""Classes, names and kinds per line."""
BAR = 30
"""Characters of the longest bar."""


def to_lines(facts: Mapping[str, Any]) -> list[str]:
    """Return the facts of a `DataReport` as lines."""
    sections = (_files, _splits, _classes, _captions, _sizes, _kinds, _duplicates, _fit)
    return [line for section in sections for line in section(facts)]


def _line(name: str, text: str) -> str:
    return f"{name:<16} {text}"


def _files(facts: Mapping[str, Any]) -> Iterable[str]:
    yield _line("data", f"{facts['source']} ({facts['layout']})")
    streamed = " of the first ones of the stream" if facts["layout"].startswith(STREAMED) else ""
    yield _line("images", f"{facts['found']:,} found{streamed}, {facts['used']:,} used")
    for left_out in facts["left_out"]:
        yield _line(
            "left out",
            f"{left_out['count']:,} {left_out['why']}{_colon(left_out['names'], left_out['count'])}",
        )
    if facts["broken"]:
        yield _line("broken", f"{len(facts['broken']):,} cannot be read{_colon(facts['broken'])}")
    if facts["missing_files"]:
        yield _line("missing", f"no file for {some(facts['missing_files'])}")
    if facts["other_files"]:
        yield _line("other files", counts(facts["other_files"]))
    if facts["other_readings"]:
        yield _line("other readings", some(facts["other_readings"]))


def _splits(facts: Mapping[str, Any]) -> Iterable[str]:
    for role, split in zip(("training", "held out"), facts["splits"], strict=False):
        rows = f", {split['rows']:,} rows" if split["rows"] != split["images"] else ""
        yield _line(role, f"{split['images']:,} images of {split['name']}{rows}")


def _classes(facts: Mapping[str, Any]) -> Iterable[str]:
    classes = facts["classes"]
    if not classes["count"]:
        yield _line("classes", "none")
        return
    unlabelled = f"; {classes['unlabelled']:,} images without a label" if classes["unlabelled"] else ""
    yield _line("classes", f"{classes['count']:,}: {counts(classes['images'])}{unlabelled}")


def _captions(facts: Mapping[str, Any]) -> Iterable[str]:
    captions = facts["captions"]
    if captions["count"]:
        length = captions["length"]
        yield _line(
            "captions",
            f"{captions['count']:,}, {captions['different']:,} different, "
            f"{length['min']} to {length['max']} characters (median {length['median']})",
        )
        for example in captions["examples"][:3]:
            yield _line("", f"“{shortened(example, 80)}”")


def _sizes(facts: Mapping[str, Any]) -> Iterable[str]:
    sizes = facts["sizes"]
    yield _line(
        "sizes", f"{sizes['smallest']} to {sizes['largest']} px, typical side {sizes['typical_side']} px"
    )
    most = max(bar["count"] for bar in sizes["histogram"])
    for bar in sizes["histogram"]:
        if bar["count"] and len(sizes["histogram"]) > 1:
            yield _line(
                "",
                f"{bar['from']:>6}-{bar['to']:<6} {'#' * max(1, BAR * bar['count'] // most)} {bar['count']:,}",
            )
    yield _line("shapes", counts(sizes["shapes"]) + _named(sizes["extreme_shapes"]))


def _kinds(facts: Mapping[str, Any]) -> Iterable[str]:
    kinds = facts["kinds"]
    yield _line("formats", counts(kinds["formats"]))
    yield _line("modes", f"{counts(kinds['modes'])}; bits per channel: {counts(kinds['bits'])}")
    if kinds["animated"]["count"]:
        yield _line(
            "animated",
            f"{kinds['animated']['count']:,}, only the first frame is used{_named(kinds['animated'])}",
        )


def _duplicates(facts: Mapping[str, Any]) -> Iterable[str]:
    found = facts["duplicates"]
    across = f" ({found['exact_across_splits']:,} across splits)" if found["exact_across_splits"] else ""
    near = f" ({found['near_across_splits']:,} across splits)" if found["near_across_splits"] else ""
    yield _line(
        "duplicates",
        f"{found['exact']:,} exact{across}; {found['near']:,} pairs look alike{near} "
        f"among {facts['decoded']:,} decoded images",
    )
    for pair in found["near_pairs"][:3]:
        yield _line("", " and ".join(pair))


def _fit(facts: Mapping[str, Any]) -> Iterable[str]:
    fits = facts["fits"]
    if "problem" in fits:
        yield _line("fits", fits["problem"])
        return
    channels = f"{fits['channels']} channel{'s' if fits['channels'] > 1 else ''}"
    yield _line(
        "fits",
        f"--preset {fits['preset']}: {'x'.join(map(str, sides_of(fits['image_size'])))} px, {channels}, "
        f"{fits['bit_depth']} bits, {fits['tokens_per_image']} tokens per image",
    )
    if fits["enlarged"]["count"]:
        yield _line("enlarged", f"{fits['enlarged']['count']:,} smaller than that{_named(fits['enlarged'])}")
    yield from (_line("hint", hint) for hint in fits["hints"])
    cache = facts["token_cache"]
    yield _line(
        "token cache",
        f"{mebibytes(cache['disk_bytes']):.1f} MiB on disk (memory-mapped), "
        f"{mebibytes(cache['memory_bytes']):.1f} MiB of memory",
    )


def _colon(names: Iterable[str], count: int | None = None) -> str:
    text = some(names, count)
    return f": {text}" if text else ""


def _named(images: Mapping[str, Any]) -> str:
    return _colon(images["names"], images["count"])


def some(names: Iterable[str], count: int | None = None) -> str:
    """Return the first of `count` names, and how many more there are."""
    names = list(names)
    more = (len(names) if count is None else count) - min(len(names), MOST)
    return ", ".join(names[:MOST]) + (f" and {more:,} more" if more > 0 else "")


def counts(values: Mapping[str, int]) -> str:
    """Return names with their numbers: `cat (12), dog (8)`."""
    return some(f"{shortened(name, 40)} ({count:,})" for name, count in values.items())


def shortened(text: str, most: int) -> str:
    """Return a text on one line, cut at a length."""
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"
