"""Line and bar charts as SVG inside a page, drawn without matplotlib. Their colours are those of the page's style.

matplotlib's plots of a run are files of their own: it is optional, takes seconds, and its colours do not follow the
light or dark mode of the page.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape

import numpy as np

from .run_log import Panel, Series

WIDTH, HEIGHT = 340, 200
LEFT, RIGHT, TOP, BOTTOM = 46, 8, 8, 24
"""Margins."""
MOST_POINTS = 300
"""Longer series are averaged over groups of neighbours."""


class Scale:
    """From values to pixels of one axis."""

    def __init__(self, low: float, high: float, start: float, end: float, logarithmic: bool = False) -> None:
        self.logarithmic = logarithmic
        if not high > low:
            low, high = low - abs(low) * 0.05 - 1e-9, high + abs(high) * 0.05 + 1e-9
        self.low, self.high, self.start, self.end = low, high, start, end

    def __call__(self, value: float) -> float:
        low, high, value = (math.log(v) if self.logarithmic else v for v in (self.low, self.high, value))
        part = min(1.0, max(0.0, (value - low) / (high - low)))
        return round(self.start + part * (self.end - self.start), 1)

    def ticks(self) -> list[float]:
        """Return two to seven round numbers between the ends."""
        if self.logarithmic:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            factors = (1, 2, 5) if len(powers) <= 3 else (1,)
            ticks = [factor * 10.0**power for power in powers for factor in factors]
            ticks = [tick for tick in ticks if self.low <= tick <= self.high]
            return ticks[:: max(1, math.ceil(len(ticks) / 6))]
        rough = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def line_chart(panel: Panel, series: Mapping[str, Series], events: Mapping[str, Sequence[int]]) -> str:
    """Return a diagram of at least one series over the steps, as an SVG element.

    Args:
        events: steps by name, drawn as vertical lines.
    """
    series = {name: _thinned(own) for name, own in series.items()}
    values = [value for _, own in series.values() for value in own]
    logarithmic = panel.log_scale and max(values) > 20 * min(values) > 0
    low, high = _limits(panel, values)
    x = Scale(0, max(steps[-1] for steps, _ in series.values()), LEFT, WIDTH - RIGHT)
    y = Scale(low, high, HEIGHT - BOTTOM, TOP, logarithmic)
    body = [*_axes(x, y)]
    body += _marks(x, events)
    for number, (name, (steps, own)) in enumerate(series.items()):
        body.append(_line(name, number, [(x(s), y(v), s, v) for s, v in zip(steps, own, strict=True)]))
    return _svg(f"{panel.title}, {panel.unit}, over the steps: {_in_words(series)}", body)


def _marks(x: Scale, events: Mapping[str, Sequence[int]]) -> Iterable[str]:
    for name, steps in events.items():
        kind = "best" if name == "best weights" else "event"
        for step in steps:
            title = f"<title>{escape(name)}, step {step:,}</title>"
            yield f'<path class="{kind}" d="M{x(step)} {TOP}V{HEIGHT - BOTTOM}">{title}</path>'


def usage_chart(counts: np.ndarray) -> str:
    """Return a histogram of how often each of V codes is used, from counts (V,), as an SVG element.

    Frequencies are relative to uniform use, on a log2 scale. Unused codes have a bar of their own on the left.
    """
    relative = counts / max(int(counts.sum()), 1) * len(counts)
    edges = np.arange(-5, 5.01, 0.5)
    used = np.histogram(np.log2(relative[relative > 0]).clip(edges[0], edges[-1]), edges)[0]
    bars = [int((relative == 0).sum()), *used.tolist()]
    x = Scale(0, len(bars), LEFT, WIDTH - RIGHT)
    y = Scale(0, max(bars) * 1.05, HEIGHT - BOTTOM, TOP)
    body = [*_grid(y), *_bars(bars, edges, x, y), *_powers(x)]
    text = f"Codes by frequency relative to uniform use: {bars[0]:,} of {len(counts):,} codes are never used"
    return _svg(text, body)


def _bars(bars: Sequence[int], edges: np.ndarray, x: Scale, y: Scale) -> Iterable[str]:
    for i, count in enumerate(bars):
        name = "never used" if i == 0 else f"{2 ** edges[i - 1]:.3g} to {2 ** edges[i]:.3g} times uniform use"
        kind, top = ("unused" if i == 0 else "bar"), y(count)
        size = (
            f'x="{x(i) + 0.5}" y="{top}" width="{x(1) - x(0) - 1:.1f}" height="{HEIGHT - BOTTOM - top:.1f}"'
        )
        yield f'<rect class="{kind}" {size}><title>{name}: {count:,} codes</title></rect>'


def _powers(x: Scale) -> Iterable[str]:
    """The labels under the bars: 0, and powers of two."""
    yield _text(x(0.5), HEIGHT - 8, "0", "middle")
    for power in range(-4, 5, 2):
        label = f"1/{2**-power}" if power < 0 else f"{2**power}"
        yield _text(x(1 + (power + 5) * 2), HEIGHT - 8, label, "middle")


def short(value: float) -> str:
    """Return a number in about four digits: 0.03161, 32.95, 12,000."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _thinned(series: Series) -> Series:
    steps, values = series
    size = math.ceil(len(steps) / MOST_POINTS)
    if size <= 1:
        return series
    groups = range(0, len(steps), size)
    return [steps[min(i + size, len(steps)) - 1] for i in groups], [
        float(np.mean(values[i : i + size])) for i in groups
    ]


def _limits(panel: Panel, values: Sequence[float]) -> tuple[float, float]:
    """The ends of the y axis. With the first losses, the rest would be a flat line: they are cut."""
    low, high = min(values), max(values)
    if panel.keys == ("loss",) and len(values) > 10:
        high = float(np.quantile(values, 0.97))
    return low, high


def _axes(x: Scale, y: Scale) -> Iterable[str]:
    yield from _grid(y)
    for tick in x.ticks():
        anchor = "end" if x(tick) > WIDTH - RIGHT - 12 else "middle"
        yield _text(x(tick), HEIGHT - 8, short(tick), anchor)


def _grid(y: Scale) -> Iterable[str]:
    for tick in y.ticks():
        yield f'<path class="grid" d="M{LEFT} {y(tick)}H{WIDTH - RIGHT}"/>'
        yield _text(LEFT - 5, y(tick) + 3.5, short(tick), "end")


def _line(name: str, number: int, points: Sequence[tuple[float, float, int, float]]) -> str:
    kind = "held" if name == "held-out" else f"line{number}"
    path = "M" + "L".join(f"{px} {py}" for px, py, _, _ in points)
    shown = points if (name == "held-out" and len(points) <= 60) or len(points) == 1 else points[-1:]
    dots = "".join(
        f'<circle class="{kind}" cx="{px}" cy="{py}" r="2.5"><title>{escape(name)}, step {s:,}: {short(v)}</title>'
        f"</circle>"
        for px, py, s, v in shown
    )
    return f'<path class="{kind}" d="{path}"/>{dots}'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{text}</text>'


def _in_words(series: Mapping[str, Series]) -> str:
    return "; ".join(
        f"{name.replace('_', ' ')} from {short(values[0])} to {short(values[-1])}"
        for name, (_, values) in series.items()
    )


def _svg(text: str, body: Iterable[str]) -> str:
    label = escape(text, quote=True)
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(body)}</svg>'
