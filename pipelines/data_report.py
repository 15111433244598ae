"""`imgtf data`: what a run would be trained on, before any training."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image

from ..data.config import AugmentationConfig, DataConfig, flips
from ..data.findings import Findings
from ..data.probe import Header, Headers, read_headers, used_bits
from ..data.sample import Decoded, Sample, decode, decode_sample, near_duplicates
from ..data.sizes import extreme_shapes, smaller_than, typical_side
from ..data.source import ImageSource, open_source
from ..errors import ImgtfError
from ..tokenizer.config import TokenizerConfig
from .data_lines import fitting_preset, range_line, shape_line, shorten
from .initial import tokenizer_config
from .settings import TOKENIZER_CLASSES, collect

MOST_NAMES = 20
"""Names per list in the report."""
BARS = 12
"""Bars of the histogram of sizes."""
SHEET_CLASSES, SHEET_IMAGES = 40, 10
"""Classes of the contact sheet, and images of each."""
ASPECTS = {"wider than 4:1": 4.0, "landscape": 1.05, "square": 0.95, "portrait": 0.25, "taller than 1:4": 0.0}
"""Shapes by the smallest width / height."""


@dataclass(frozen=True)
class DataReport:
    """The report, and the images of its contact sheet."""

    facts: dict[str, Any]
    """Plain values, as `--json` prints them."""
    sheet: dict[str, list[Image.Image]]
    """Class (or "all images") -> thumbnails."""
    alike: dict[str, list[Image.Image]]
    """Names of two images that look alike -> both."""


def describe_data(data: DataConfig, everything: bool = False) -> DataReport:
    """Read a data set as training would, without training.

    Args:
        everything: decode every image; otherwise headers are read and a sample is decoded.

    Raises:
        DataError: the data set cannot be read.
    """
    start = time.perf_counter()
    sources = open_source(data)
    headers = [read_headers(source, everything) for source in sources]
    sample = decode_sample(headers, everything)
    findings = sources[0].findings
    pixels, pairs = _pixels(sample), near_duplicates(sample.images)
    facts: dict[str, Any] = {
        "source": data.data,
        "layout": findings.layout,
        **_files(findings, headers, sample),
        "splits": [
            asdict(split) | {"images": one.images()}
            for split, one in zip(findings.splits, headers, strict=True)
        ],
        "classes": _classes(findings),
        "captions": _captions(sources),
        "sizes": _sizes(headers),
        "kinds": _kinds(headers),
        "pixels": pixels,
        "duplicates": _duplicates(findings, headers, sample, pairs),
        **_fit(data, headers, pixels),
        "notes": list(findings.notes),
    }
    sheet, alike = _sheet(headers, sample), _alike(headers, sample, pairs)
    return DataReport(facts | {"seconds": round(time.perf_counter() - start, 2)}, sheet, alike)


def _files(findings: Findings, headers: Sequence[Headers], sample: Sample) -> dict[str, Any]:
    errors = [*(error for one in headers for _, error in one.broken), *sample.broken]
    broken = {shorten(str(error), findings.source) for error in errors}
    return {
        "other_readings": list(findings.alternatives),
        "found": findings.found,
        "used": sum(one.images() for one in headers),
        "left_out": [
            {"why": one.why, "count": one.count, "names": list(one.names[:MOST_NAMES])}
            for one in findings.left_out
        ],
        "missing_files": list(findings.missing[:MOST_NAMES]),
        "other_files": dict(findings.other_files),
        "broken": sorted(broken),
        "headers_read": sum(one.total for one in headers),
        "decoded": len(sample.images),
    }


def _classes(findings: Findings) -> dict[str, Any]:
    counts = [split.class_counts for split in findings.splits]
    by_class = [sum(column) for column in zip(*counts, strict=True)]
    return {
        "count": len(findings.class_names),
        "unlabelled": sum(split.unlabelled for split in findings.splits) if findings.class_names else 0,
        "images": dict(zip(findings.class_names, by_class, strict=False)),
    }


def _captions(sources: Iterable[ImageSource]) -> dict[str, Any]:
    texts = [text for source in sources for i in _captioned(source) if (text := source.text(i))]
    if not texts:
        return {"count": 0}
    lengths = np.array([len(text) for text in texts])
    return {
        "count": len(texts),
        "length": {"min": int(lengths.min()), "median": int(np.median(lengths)), "max": int(lengths.max())},
        "longest_bytes": max(len(text.encode()) for text in texts),
        "different": len(set(texts)),
        "examples": texts[:: max(1, len(texts) // 5)][:5],
    }


def _captioned(source: ImageSource) -> list[int]:
    return np.flatnonzero(source.rows.captioned()[source.chosen]).tolist()


def _sizes(headers: Sequence[Headers]) -> dict[str, Any]:
    found = [header for one in headers for header in one.found]
    sides = np.array([header.side for header in found])
    smallest, largest = (pick(found, key=lambda h: h.width * h.height) for pick in (min, max))
    shapes = Counter(next(n for n, low in ASPECTS.items() if h.width / h.height >= low) for h in found)
    return {
        "smallest": f"{smallest.width}x{smallest.height}",
        "largest": f"{largest.width}x{largest.height}",
        "median_side": int(np.median(sides)),
        "typical_side": typical_side(headers[0]),
        "histogram": _histogram(sides),
        "shapes": {name: shapes[name] for name in ASPECTS if shapes[name]},
        "extreme_shapes": _names(headers, extreme_shapes),
    }


def _histogram(sides: np.ndarray) -> list[dict[str, int]]:
    """Images by their shorter side, in bars of equal ratio."""
    low, high = int(sides.min()), int(sides.max())
    edges = (
        np.unique(np.geomspace(low, high + 1, BARS + 1).round().astype(int))
        if high > low
        else [low, high + 1]
    )
    counts, _ = np.histogram(sides, edges)
    bars = zip(edges[:-1], edges[1:], counts.tolist(), strict=True)
    return [{"from": int(a), "to": int(b) - 1, "count": count} for a, b, count in bars]


def _kinds(headers: Sequence[Headers]) -> dict[str, Any]:
    found = [header for one in headers for header in one.found]
    return {
        "formats": dict(Counter(h.format or "in memory" for h in found).most_common()),
        "modes": dict(Counter(h.mode for h in found).most_common()),
        "bits": {str(bits): count for bits, count in Counter(h.bits for h in found).most_common()},
        "animated": _names(headers, lambda one: [h for h in one.found if h.animated]),
    }


def _pixels(sample: Sample) -> dict[str, Any]:
    tops = [image.top for image in sample.images if image.top]
    return {
        "decoded": len(sample.images),
        "grey_in_content": sum(image.is_grey for image in sample.images),
        "used_bits": used_bits(tops) if tops else 8,
    }


def _duplicates(
    findings: Findings, headers: Sequence[Headers], sample: Sample, pairs: Sequence[tuple[int, int]]
) -> dict[str, Any]:
    exact = findings.duplicates
    return {
        "exact": exact.images,
        "exact_across_splits": exact.across_splits,
        "exact_groups": [list(group) for group in exact.groups[:MOST_NAMES]],
        "near": len(pairs),
        "near_across_splits": sum(_across(sample, pair) for pair in pairs),
        "near_pairs": [[_where(headers, sample.images[i]) for i in pair] for pair in _shown(sample, pairs)],
    }


def _across(sample: Sample, pair: tuple[int, int]) -> bool:
    return sample.images[pair[0]].source != sample.images[pair[1]].source


def _shown(sample: Sample, pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The first pairs, those across splits before the others."""
    return sorted(pairs, key=lambda pair: not _across(sample, pair))[:MOST_NAMES]


def _alike(
    headers: Sequence[Headers], sample: Sample, pairs: Sequence[tuple[int, int]]
) -> dict[str, list[Image.Image]]:
    shown = [[sample.images[i] for i in pair] for pair in _shown(sample, pairs)]
    return {
        " and ".join(_where(headers, one) for one in pair): [one.thumbnail for one in pair] for pair in shown
    }


def _fit(data: DataConfig, headers: Sequence[Headers], pixels: dict[str, Any]) -> dict[str, Any]:
    """The preset and the sizes that fit, and the size of the token cache."""
    preset = fitting_preset(typical_side(headers[0]))
    try:
        config = tokenizer_config(collect("tokenizer", TOKENIZER_CLASSES, {"preset": preset}), headers[0])
    except ImgtfError as error:
        return {"fits": {"preset": preset, "problem": str(error)}, "token_cache": {}}
    fits = {
        "preset": preset,
        "image_size": config.image_size,
        "channels": config.channels,
        "bit_depth": config.bit_depth,
        "tokens_per_image": config.grid[0] * config.grid[1],
        "enlarged": _names(headers, lambda one: smaller_than(one, config.image_size)),
        "hints": _hints(config, headers[0], pixels),
    }
    return {"fits": fits, "token_cache": _token_cache(data, headers, config)}


def _hints(config: TokenizerConfig, headers: Headers, pixels: dict[str, Any]) -> list[str]:
    hints = [shape] if (shape := shape_line(headers, config)) else []
    if config.channels == 3 and pixels["grey_in_content"] == pixels["decoded"] > 0:
        hints.append("all decoded images are grey: --channels 1 is enough")
    if config.bit_depth == 16 and (line := range_line(pixels["used_bits"])):
        hints.append(line)
    return hints


def _token_cache(data: DataConfig, headers: Sequence[Headers], config: TokenizerConfig) -> dict[str, int]:
    """Bytes of the caches that `prior train` writes by default: codes as uint16, label and caption of each image."""
    train, held_out = (len(one.readable()) for one in headers)
    stored = train * (2 if flips(data, AugmentationConfig()) else 1) + held_out
    texts = [text for one in headers for i in _captioned(one.source) if (text := one.source.text(i))]
    tokens = config.grid[0] * config.grid[1]
    bytes_per_code = 2 if config.codebook_size <= 2**16 else 4
    disk = (
        stored * tokens * bytes_per_code + (train + held_out) * 12 + sum(len(text.encode()) for text in texts)
    )
    return {"disk_bytes": disk, "memory_bytes": (train + held_out) * 8}


def _names(headers: Sequence[Headers], choose: Any) -> dict[str, Any]:
    chosen: list[tuple[Headers, Header]] = [(one, header) for one in headers for header in choose(one)]
    names = [shorten(one.where(header), one.source.name) for one, header in chosen[:MOST_NAMES]]
    return {"count": len(chosen), "names": names}


def _where(headers: Sequence[Headers], image: Decoded) -> str:
    source = headers[image.source].source
    return shorten(source.where(image.row), source.name)


def _sheet(headers: Sequence[Headers], sample: Sample) -> dict[str, list[Image.Image]]:
    """Thumbnails of the training images by class, decoded here where the sample has too few."""
    source, names = headers[0].source, headers[0].source.class_names
    known = {image.row: image.thumbnail for image in sample.images if image.source == 0}
    readable = {header.row for header in headers[0].found}
    labels = np.array(
        [source.label(row) if source.label(row) is not None else -1 for row in sorted(readable)]
    )
    rows = np.array(sorted(readable))
    sheet: dict[str, list[Image.Image]] = {}
    groups = [(name, rows[labels == i]) for i, name in enumerate(names[:SHEET_CLASSES])]
    for name, own in [*groups, ("unlabelled" if names else "all images", rows[labels < 0])]:
        count = SHEET_IMAGES if names else 4 * SHEET_IMAGES
        chosen = (
            own[np.linspace(0, len(own) - 1, min(count, len(own))).astype(int)].tolist() if len(own) else []
        )
        images = [known.get(row) or _thumbnail(headers, row) for row in chosen]
        if images:
            sheet[name] = [image for image in images if image is not None]
    return sheet


def _thumbnail(headers: Sequence[Headers], row: int) -> Image.Image | None:
    decoded = decode(headers, 0, row)
    return decoded.thumbnail if isinstance(decoded, Decoded) else None
