"""Small charts as SVG text: a line over steps, two histograms, intervals against a reference.

They carry class names, not colours, so that the page that holds them decides how they look on a light and a dark
ground. Every label is escaped; nothing is drawn for values that are not finite.
"""

import math
from collections.abc import Callable, Sequence
from html import escape
from itertools import pairwise
from statistics import fmean
from typing import NamedTuple

_WIDTH, _HEIGHT = 340, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 48, 42
_MOST_POINTS = 200

Point = tuple[float, float]


class IntervalRow(NamedTuple):
    """A line of an interval plot: a share with its interval, and words for it."""

    label: str
    value: float
    low: float
    high: float
    note: str = ""


class _Scale:
    """Maps values to positions in the picture."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.high, self.start, self.end = low, high, start, end

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def line_chart(
    title: str,
    points: Sequence[Point],
    *,
    x_label: str = "step",
    smooth: bool = True,
    share: bool = False,
) -> str:
    """Return a line over steps; with `smooth`, each value thin and a moving average bold.

    Args:
        title: What is shown, with its unit.
        points: Pairs of step and value.
        x_label: What the horizontal axis counts.
        smooth: Whether to draw the average of neighbouring steps, when there are at least 12.
        share: Whether values are shares, shown as percentages from 0% to 100%.
    """
    finite = _thinned([(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)])
    if not finite:
        return _framed(title, '<text class="note" x="170" y="120" text-anchor="middle">no values</text>')
    xs, ys = [x for x, _ in finite], [y for _, y in finite]
    y_ticks = [0.0, 0.25, 0.5, 0.75, 1.0] if share else nice_ticks(min(ys), max(ys))
    x = _Scale(min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1, _LEFT, _WIDTH - _RIGHT)
    y = _Scale(y_ticks[0], y_ticks[-1], _HEIGHT - _BOTTOM, _TOP)
    x_ticks = [tick for tick in nice_ticks(x.low, x.high, whole=True, about=6) if x.low <= tick <= x.high]
    parts = [_axes(x, y, x_ticks, y_ticks, x_label, _percent if share else None)]
    smoothed = smooth and len(finite) >= 12
    if len(finite) > 1:
        parts.append(f'<path class="line{" raw" if smoothed else ""}" d="{_path(finite, x, y)}"/>')
    if smoothed:
        average = list(zip(xs, _moving_average(ys), strict=True))
        parts.append(f'<path class="line" d="{_path(average, x, y)}"/>')
        parts.append(_legend([("line raw", "each step"), ("line", "average")]))
    for px, py in finite:
        text = _percent(py) if share else f"{py:.4g}"
        dot = "dot" if len(finite) == 1 else "touch"
        parts.append(
            f'<circle class="{dot}" cx="{x(px):.1f}" cy="{y(py):.1f}" r="4">'
            f"<title>{escape(x_label)} {px:.6g}: {text}</title></circle>"
        )
    return _framed(title, *parts)


def histogram_pair(
    title: str, groups: Sequence[tuple[str, str, Sequence[float]]], *, x_label: str, whole: bool = False
) -> str:
    """Return overlaid histograms with the mean of each as a dashed line.

    Args:
        title: What is shown.
        groups: For each its label, its class (`base` or `tuned`) and its values.
        x_label: What the horizontal axis measures.
        whole: Whether values are whole numbers, so that no bin is narrower than 1.
    """
    finite = [(label, kind, [value for value in values if math.isfinite(value)]) for label, kind, values in groups]
    everything = [value for _, _, values in finite for value in values]
    if not everything:
        return _framed(title, '<text class="note" x="170" y="120" text-anchor="middle">no values</text>')
    low, width, bins = _bins(everything, whole)
    x = _Scale(low, low + width * bins, _LEFT, _WIDTH - _RIGHT)
    counts = {}
    for _, kind, values in finite:
        counts[kind] = [0] * bins
        for value in values:
            counts[kind][min(bins - 1, int((value - low) / width + 1e-9))] += 1
    y_ticks = nice_ticks(0, max(max(held) for held in counts.values()), whole=True)
    y = _Scale(0, y_ticks[-1], _HEIGHT - _BOTTOM, _TOP)
    x_ticks = [tick for tick in nice_ticks(x.low, x.high, whole=whole, about=6) if x.low <= tick <= x.high]
    parts = [_axes(x, y, x_ticks, y_ticks, x_label)]
    legend = []
    for label, kind, values in finite:
        if not values:
            continue
        outline = [f"M{x.start:.1f} {y(0):.1f}"]
        for index, count in enumerate(counts[kind]):
            outline.append(f"V{y(count):.1f}H{x(low + (index + 1) * width):.1f}")
        parts.append(f'<path class="area {kind}" d="{"".join(outline)}V{y(0):.1f}Z"/>')
        mean = fmean(values)
        parts.append(
            f'<line class="mean {kind}" x1="{x(mean):.1f}" x2="{x(mean):.1f}" y1="{_TOP}" y2="{y(0):.1f}">'
            f"<title>{escape(label)}: mean {mean:.3g} of {len(values)}</title></line>"
        )
        legend.append((f"area {kind}", f"{label}, mean {mean:.3g}"))
    for index in range(bins):
        start, end = low + index * width, low + (index + 1) * width
        held = ", ".join(f"{label} {counts[kind][index]}" for label, kind, _ in finite)
        span = f"{start:.4g}" if whole and width == 1 else f"{start:.4g} to {end:.4g}"
        parts.append(
            f'<rect class="touch" x="{x(start):.1f}" y="{_TOP}" width="{x(end) - x(start):.1f}" '
            f'height="{y.start - y.end:.1f}"><title>{escape(span)}: {escape(held)}</title></rect>'
        )
    return _framed(title, *parts, _legend(legend))


def interval_plot(
    title: str, rows: Sequence[IntervalRow], *, reference: float = 0.5, reference_label: str = "50%"
) -> str:
    """Return shares from 0% to 100% as dots with whiskers, against a reference line.

    Args:
        title: What is shown.
        rows: The shares, top to bottom.
        reference: Where the line stands.
        reference_label: Words at the line.
    """
    width, row_height, top = 760, 34, 58
    bottom = top + row_height * len(rows)
    x = _Scale(0, 1, 260, 560)
    parts = [
        f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{top}" y2="{bottom}"/>'
        f'<text class="tick" x="{x(tick):.1f}" y="{bottom + 16}" text-anchor="middle">{_percent(tick)}</text>'
        for tick in (0, 0.25, 0.5, 0.75, 1)
    ]
    parts.append(
        f'<line class="reference" x1="{x(reference):.1f}" x2="{x(reference):.1f}" y1="{top - 6}" y2="{bottom}"/>'
        f'<text class="tick" x="{x(reference):.1f}" y="{top - 11}" text-anchor="middle">'
        f"{escape(reference_label)}</text>"
    )
    for index, row in enumerate(rows):
        middle = top + row_height * index + row_height / 2
        state = "better" if row.low > reference else "worse" if row.high < reference else "unclear"
        words = f"{row.label}: {_percent(row.value, 1)} [{_percent(row.low, 1)}, {_percent(row.high, 1)}]"
        parts.append(
            f'<g class="interval {state}"><title>{escape(words)}</title>'
            f'<text class="label" x="10" y="{middle + 4}">{escape(row.label)}</text>'
            f'<text class="tick" x="586" y="{middle + 4}">{escape(row.note)}</text>'
            f'<line class="whisker" x1="{x(row.low):.1f}" x2="{x(row.high):.1f}" y1="{middle}" y2="{middle}"/>'
            f'<line class="whisker" x1="{x(row.low):.1f}" x2="{x(row.low):.1f}" y1="{middle - 5}" y2="{middle + 5}"/>'
            f'<line class="whisker" x1="{x(row.high):.1f}" x2="{x(row.high):.1f}" y1="{middle - 5}" y2="{middle + 5}"/>'
            f'<circle class="value" cx="{x(row.value):.1f}" cy="{middle}" r="5.5"/></g>'
        )
    return _framed(title, *parts, width=width, height=bottom + 24)


def nice_ticks(low: float, high: float, *, whole: bool = False, about: float = 4) -> list[float]:
    """Return round numbers from at or below `low` to at or above `high`, in steps of 1, 2 or 5 times a power of ten."""
    if high <= low:
        margin = abs(low) / 10 or 1.0
        low, high = low - margin, high + margin
    rough = (high - low) / about
    power: float = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    if whole:
        step = max(1.0, float(round(step)))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    # Multiplying keeps ticks round where repeated adding would not.
    return [index * step for index in range(first, last + 1)]


def _framed(title: str, *parts: str, width: int = _WIDTH, height: int = _HEIGHT) -> str:
    name = escape(title)
    return (
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{name}">'
        f'<text class="title" x="10" y="16">{name}</text>{"".join(parts)}</svg>'
    )


def _axes(
    x: _Scale,
    y: _Scale,
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
    x_label: str,
    y_format: Callable[[float], str] | None = None,
) -> str:
    parts = []
    for tick in y_ticks:
        text = y_format(tick) if y_format else _tick_text(tick, y_ticks)
        parts.append(
            f'<line class="grid" x1="{x.start}" x2="{x.end}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
            f'<text class="tick" x="{x.start - 6}" y="{y(tick) + 3.5:.1f}" text-anchor="end">{text}</text>'
        )
    for tick in x_ticks:
        text = _tick_text(tick, x_ticks)
        parts.append(
            f'<line class="axis" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{y.start}" y2="{y.start + 4}"/>'
            f'<text class="tick" x="{x(tick):.1f}" y="{y.start + 16}" text-anchor="middle">{text}</text>'
        )
    parts.append(f'<line class="axis" x1="{x.start}" x2="{x.end}" y1="{y.start}" y2="{y.start}"/>')
    middle = (x.start + x.end) / 2
    parts.append(
        f'<text class="tick" x="{middle:.1f}" y="{y.start + 33}" text-anchor="middle">{escape(x_label)}</text>'
    )
    return "".join(parts)


def _tick_text(tick: float, ticks: Sequence[float]) -> str:
    """Write a tick with as many decimals as its neighbours need."""
    step = abs(ticks[1] - ticks[0]) if len(ticks) > 1 else abs(tick) or 1.0
    if step < 1e-3 or abs(tick) >= 1e5:
        mantissa, _, exponent = f"{tick:.1e}".partition("e")
        shown = mantissa.removesuffix(".0")
        return "0" if tick == 0 else f"{shown}e{int(exponent)}".replace("-", "−")
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{tick + 0.0:,.{decimals}f}".replace("-", "−")


def _percent(share: float, decimals: int = 0) -> str:
    return f"{100 * share:.{decimals}f}%"


def _legend(entries: Sequence[tuple[str, str]]) -> str:
    """Put the legend in a line under the title."""
    parts = []
    left, middle = 10.0, _TOP - 18
    for kind, label in entries:
        if kind.startswith("line"):
            mark = f'<path class="{kind}" d="M{left:.1f} {middle}h14"/>'
        else:
            mark = f'<rect class="{kind}" x="{left + 2:.1f}" y="{middle - 5}" width="10" height="10"/>'
        parts.append(f'{mark}<text class="tick" x="{left + 19:.1f}" y="{middle + 4}">{escape(label)}</text>')
        # SVG cannot measure text; 6 units a character is wide enough at this size.
        left += 34 + 6 * len(label)
    return "".join(parts)


def _path(points: Sequence[Point], x: _Scale, y: _Scale) -> str:
    return "M" + "L".join(f"{x(px):.1f} {y(py):.1f}" for px, py in points)


def _thinned(points: Sequence[Point]) -> list[Point]:
    """Average neighbours until a long run fits the picture."""
    size = math.ceil(len(points) / _MOST_POINTS)
    if size <= 1:
        return list(points)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(fmean(x for x, _ in group), fmean(y for _, y in group)) for group in groups]


def _moving_average(values: Sequence[float]) -> list[float]:
    """Average each value with its neighbours, fewer of them at the ends."""
    reach = max(1, len(values) // 16)
    return [fmean(values[max(0, index - reach) : index + reach + 1]) for index in range(len(values))]


def _bins(values: Sequence[float], whole: bool) -> tuple[float, float, int]:
    """Return where bins of round width start, their width, and how many there are.

    Few values get few bins, and scores in steps of 0.1 get no bins of 0.05, half of which would stand empty.
    """
    distinct = sorted({round(value, 9) for value in values})
    about = min(20.0, max(5.0, 1.5 * math.sqrt(len(values))))
    if 1 < len(distinct) <= 30:
        gap = min(second - first for first, second in pairwise(distinct))
        about = min(about, max(5.0, (distinct[-1] - distinct[0]) / gap))
    ticks = nice_ticks(min(values), max(values), whole=whole, about=about)
    return ticks[0], ticks[1] - ticks[0], max(1, len(ticks) - 1) + (max(values) >= ticks[-1])
