"""What a data set is and how a run reads it, in at most five lines: for the start of training and the model card."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import numpy as np

from ..data.findings import Findings
from ..data.image import DEEP_MODES, GREY_MODES
from ..data.probe import Header, Headers, colour_fraction, used_bits
from ..data.sizes import MAX_ASPECT, common_aspect, extreme_shapes, smaller_than, typical_side
from ..options import Size, sides_of, size_text
from ..tokenizer.config import TokenizerConfig
from .data_text import some
from .settings import load_presets

NAMED = 3
"""Images named per line."""
MOST_UNUSED = 14
"""16-bit images that need at most this many bits use a quarter of their range or less."""
RANGE_SAMPLE = 32
"""16-bit images that are decoded to find the range of their values."""
MOST_LOST = 0.2
"""The images' own shape is named where the square crop loses at least this fraction of them."""
FAR = 2
"""A preset is named where the images have at least this many times the side that they are trained at."""


def data_lines(headers: Sequence[Headers], config: TokenizerConfig, preset: str = "") -> list[str]:
    """Return at most five lines about the images of a run.

    Args:
        headers: of the training images, then of the held-out images.
        config: of the tokenizer that is trained.
        preset: preset whose size the run uses; "" if the user set the size.
    """
    train, findings = headers[0], headers[0].source.findings
    size = config.image_size
    hints = [
        preset and other_preset(typical_side(train), min(config.size), preset),
        preset and shape_line(train, config),
        range_line(used_bits(_largest_values(train))) if config.bit_depth == 16 else "",
    ]
    lines = [
        _files(findings, headers),
        _labels(findings),
        _sizes(train, size),
        _unusual(headers, size, config.channels),
        "; ".join(hint for hint in hints if hint),
    ]
    return [f"data: {line}" for line in lines if line]


def other_preset(side: int, size: int, preset: str) -> str:
    """Return a line that names the preset for images of a side, or "" if the run's size fits them."""
    fitting = fitting_preset(side)
    if side < FAR * size or preset_size(fitting) <= size:
        return ""
    return (
        f"the images have {side} px, the preset {preset} trains at {size} px; "
        f"--preset {fitting} ({preset_size(fitting)} px) fits"
    )


def shape_line(headers: Headers, config: TokenizerConfig) -> str:
    """Return a line that names the size of the images' own shape, or "" where the square crop loses little."""
    aspect, side = common_aspect(headers) or 1.0, config.image_size
    long = max(aspect, 1 / aspect)
    if not isinstance(side, int) or 1 - 1 / long < MOST_LOST or long > MAX_ASPECT:
        return ""
    longer = round(side * long / config.factor) * config.factor
    size = size_text((side, longer) if aspect > 1 else (longer, side))
    return f"the square crop loses {1 - 1 / long:.0%} of most images; --image-size {size} has their shape"


def range_line(used: int) -> str:
    """Return a line about 16-bit images whose values need only `used` bits, or "" where they need 15 or 16."""
    if used > MOST_UNUSED:
        return ""
    return (
        f"the 16-bit images have values up to {2**used - 1:,} ({used} bits) of 65,535 and look black; multiply them by "
        f"{2 ** (16 - used):,} to use the whole range"
    )


def fitting_preset(side: int) -> str:
    """Return the largest preset whose images are no larger than a side, or the smallest preset."""
    sizes = {name: preset_size(name) for name in load_presets("tokenizer")}
    return max(
        (name for name in sizes if sizes[name] <= side), key=sizes.__getitem__, default=next(iter(sizes))
    )


def preset_size(name: str) -> int:
    """Return the image size of a tokenizer preset, in pixels."""
    return int(load_presets("tokenizer")[name]["image_size"])


def shorten(where: str, source: str) -> str:
    """Return the path of an image inside its folder; other names are returned as they are."""
    prefix = os.path.join(source, "")
    return where.removeprefix(prefix)


def _files(findings: Findings, headers: Sequence[Headers]) -> str:
    train, held_out = (one.images() for one in headers)
    if headers[0].source.stream is not None:
        return f"{findings.source} ({findings.layout}): {headers[0].source.amount}, {held_out:,} held out"
    text = f"{findings.source or headers[0].source.name}"
    text += f" ({findings.layout})" if findings.layout else ""
    text += f": {findings.found or train + held_out:,} images, {train:,} for training, {held_out:,} held out"
    reasons = [f"{one.count:,} {one.why}" for one in findings.left_out]
    broken = sum(len({error.where for _, error in one.broken}) for one in headers)
    reasons += [f"{broken:,} cannot be read"] if broken else []
    return text + (f"; left out: {', '.join(reasons)}" if reasons else "")


def _labels(findings: Findings) -> str:
    rows = sum(split.rows for split in findings.splits)
    captions = sum(split.captions for split in findings.splits)
    parts = []
    if findings.class_names:
        sizes = [sum(counts) for counts in zip(*(s.class_counts for s in findings.splits), strict=True)]
        unlabelled = sum(split.unlabelled for split in findings.splits)
        each = (
            f"{min(sizes):,} to {max(sizes):,} images"
            if min(sizes) < max(sizes)
            else f"{min(sizes):,} images"
        )
        parts.append(f"{len(sizes):,} classes of {each}")
        parts += [f"{unlabelled:,} unlabelled"] if unlabelled else []
    if captions:
        parts.append(f"{captions:,} captions" + (f", {rows - captions:,} without" if rows > captions else ""))
    return ", ".join(parts)


def _sizes(headers: Headers, size: Size) -> str:
    low, high = (pick(headers.found, key=lambda h: h.width * h.height) for pick in (min, max))
    sizes = f"{low.width}x{low.height}"
    if (low.width, low.height) != (high.width, high.height):
        sizes += f" to {high.width}x{high.height}, typical side {typical_side(headers)}"
    read = "" if headers.complete else f" in {headers.total:,} of {len(headers.source):,} headers"
    height, width = sides_of(size)
    order = " (height x width)" if height != width else ""
    return f"{sizes} px{read}, trained at {height}x{width} px{order}"


def _unusual(headers: Sequence[Headers], size: Size, channels: int) -> str:
    """Images that the run changes: enlarged, cut, first frame only, converted."""
    grey = channels == 1 and colour_fraction(headers[0]) > 0
    text = size_text(size)
    long = f"longer than {MAX_ASPECT:g}:1 lose all but the centre square"
    if not isinstance(size, int):
        long = f"more than {MAX_ASPECT:g} times as long or wide as {text} px lose all but the centre"
    parts = [
        _some(headers, lambda one: smaller_than(one, size), f"smaller than {text} px are enlarged"),
        _some(headers, lambda one: extreme_shapes(one, size), long),
        _some(headers, _animated, "have several frames, only the first is used"),
        _some(headers, _coloured, "in colour become grey") if grey else "",
    ]
    parts = [part for part in parts if part]
    return "; ".join(parts)


def _some(headers: Sequence[Headers], choose: Callable[[Headers], list[Header]], what: str) -> str:
    chosen = [(one, header) for one in headers for header in choose(one)]
    names = [shorten(one.where(header), one.source.name) for one, header in chosen[:NAMED]]
    total = sum(one.total for one in headers)
    return f"{len(chosen):,} of {total:,} {what}: {some(names, len(chosen))}" if chosen else ""


def _largest_values(headers: Headers) -> list[int]:
    """The largest value of a few images of more than 8 bits."""
    deep = [header for header in headers.found if header.bits > 8 and header.mode in DEEP_MODES - {"F"}]
    step = max(1, len(deep) // RANGE_SAMPLE)
    return [int(np.asarray(headers.source.image(header.row)).max()) for header in deep[::step]]


def _animated(headers: Headers) -> list[Header]:
    return [header for header in headers.found if header.animated]


def _coloured(headers: Headers) -> list[Header]:
    return [header for header in headers.found if header.mode not in GREY_MODES]
