"""Small charts as SVG text: a line over steps, histograms, intervals and shares against a reference, counts as bars.

Drawn by hand on purpose: they need no script and no library in the page, and follow its theme.
They carry class names, not colours, so that the page that holds them decides how they look on a light and a dark
ground. Every label is escaped; nothing is drawn for values that are not finite.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from statistics import fmean
from typing import NamedTuple
from unicodedata import east_asian_width

from rlhf_tuning.reports.page import text as page_text

_WIDTH, _HEIGHT = 340, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 48, 42
_MOST_POINTS = 200
_MOST_BYTES = 2_000

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
            f"<title>{_words(x_label)} {px:.6g}: {text}</title></circle>"
        )
    return _framed(title, *parts)


def two_lines(
    title: str, lines: Sequence[tuple[str, str, Sequence[Point]]], *, x_label: str = "step", mark: Point | None = None
) -> str:
    """Return two or more lines over the same steps, each with its dots.

    Args:
        title: What is shown, with its unit.
        lines: Name, class of colour (`base` or `tuned`) and points of each.
        x_label: What the horizontal axis counts.
        mark: A step, and nothing else of the point, at which a dashed line stands.
    """
    every = [point for _, _, points in lines for point in points if math.isfinite(point[1])]
    if not every:
        return _framed(title, '<text class="note" x="170" y="120" text-anchor="middle">no values</text>')
    y_ticks = nice_ticks(min(y for _, y in every), max(y for _, y in every))
    first, last = min(x for x, _ in every), max(x for x, _ in every)
    x = _Scale(first, last if last > first else first + 1, _LEFT, _WIDTH - _RIGHT)
    y = _Scale(y_ticks[0], y_ticks[-1], _HEIGHT - _BOTTOM, _TOP)
    x_ticks = [tick for tick in nice_ticks(x.low, x.high, whole=True, about=6) if x.low <= tick <= x.high]
    parts = [_axes(x, y, x_ticks, y_ticks, x_label), _legend([(f"line {kind}", name) for name, kind, _ in lines])]
    if mark:
        parts.append(f'<line class="limit" x1="{x(mark[0]):.1f}" x2="{x(mark[0]):.1f}" y1="{_TOP}" y2="{y.start}"/>')
    for name, kind, points in lines:
        finite = [point for point in points if math.isfinite(point[1])]
        if len(finite) > 1:
            parts.append(f'<path class="line {kind}" d="{_path(finite, x, y)}"/>')
        parts += [
            f'<circle class="dot {kind}" cx="{x(px):.1f}" cy="{y(py):.1f}" r="3">'
            f"<title>{_words(name)}, {_words(x_label)} {px:.6g}: {py:.4g}</title></circle>"
            for px, py in finite
        ]
    return _framed(title, *parts)


def scatter(title: str, points: Sequence[tuple[float, float, str]], *, x_label: str) -> str:
    """Return dots, each with words of its own, in the order in which they came: the later, the darker."""
    finite = [point for point in points if math.isfinite(point[0]) and math.isfinite(point[1])]
    if not finite:
        return _framed(title, '<text class="note" x="170" y="120" text-anchor="middle">no values</text>')
    x_ticks = nice_ticks(min(x for x, _, _ in finite), max(x for x, _, _ in finite))
    y_ticks = nice_ticks(min(y for _, y, _ in finite), max(y for _, y, _ in finite))
    x = _Scale(x_ticks[0], x_ticks[-1], _LEFT, _WIDTH - _RIGHT)
    y = _Scale(y_ticks[0], y_ticks[-1], _HEIGHT - _BOTTOM, _TOP)
    dots = [
        f'<circle class="dot" cx="{x(px):.1f}" cy="{y(py):.1f}" r="3.5" '
        f'fill-opacity="{0.25 + 0.75 * index / max(1, len(finite) - 1):.2f}"><title>{_words(words)}</title></circle>'
        for index, (px, py, words) in enumerate(finite)
    ]
    return _framed(title, _axes(x, y, x_ticks, y_ticks, x_label), *dots)


def calibration(title: str, points: Sequence[tuple[float, float, float, float, str]], *, x_label: str) -> str:
    """Return observed shares with their intervals over predicted ones, both from one half up, and the line of equality.

    Args:
        title: What is shown.
        points: Predicted share, observed share, the ends of its interval, words.
        x_label: Of the horizontal axis.
    """
    ticks = [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    lowest = min([0.5, *(low for _, _, low, _, _ in points)])
    y_ticks = nice_ticks(math.floor(lowest * 10) / 10, 1.0, about=5)
    x = _Scale(0.5, 1.0, _LEFT, _WIDTH - _RIGHT)
    y = _Scale(y_ticks[0], 1.0, _HEIGHT - _BOTTOM, _TOP)
    parts = [
        _axes(x, y, ticks, y_ticks, x_label, _percent, _percent),
        f'<line class="reference" x1="{x(0.5):.1f}" x2="{x(1.0):.1f}" y1="{y(0.5):.1f}" y2="{y(1.0):.1f}"/>',
    ]
    for predicted, observed, low, high, words in points:
        parts.append(
            f'<g class="interval"><title>{_words(words)}</title>'
            f'<line class="whisker" x1="{x(predicted):.1f}" x2="{x(predicted):.1f}" y1="{y(low):.1f}" y2="{y(high):.1f}"/>'
            f'<circle class="dot" cx="{x(predicted):.1f}" cy="{y(observed):.1f}" r="4"/></g>'
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
            f"<title>{_words(label)}: mean {mean:.3g} of {len(values)}</title></line>"
        )
        legend.append((f"area {kind}", f"{label}, mean {mean:.3g}"))
    for index in range(bins):
        start, end = low + index * width, low + (index + 1) * width
        held = ", ".join(f"{label} {counts[kind][index]}" for label, kind, _ in finite)
        span = f"{start:.4g}" if whole and width == 1 else f"{start:.4g} to {end:.4g}"
        parts.append(
            f'<rect class="touch" x="{x(start):.1f}" y="{_TOP}" width="{x(end) - x(start):.1f}" '
            f'height="{y.start - y.end:.1f}"><title>{_words(span)}: {_words(held)}</title></rect>'
        )
    return _framed(title, *parts, _legend(legend))


def histogram(title: str, values: Sequence[int], *, x_label: str, limit: int | None = None) -> str:
    """Return a histogram of whole numbers from 0, with what is beyond a limit in another colour, and its share.

    Rare large values do not squeeze all others into one bar: the axis ends soon after 99% of the values, and a last bar
    holds the rest. Nor does a limit that is far beyond all values: it is said in words.

    Args:
        title: What is shown.
        values: Not negative.
        x_label: What the horizontal axis measures.
        limit: The largest value that is not beyond.
    """
    if not values:
        return _framed(title, '<text class="note" x="170" y="120" text-anchor="middle">no values</text>')
    ordered = sorted(values)
    n, longest, usual = len(ordered), ordered[-1], quantile(ordered, 0.99)
    end = longest if longest <= 2 * usual else math.ceil(1.25 * usual)
    if limit is not None and limit <= 3 * end:
        end = max(end, limit + 1)
    ticks = nice_ticks(0, max(end, 1), whole=True, about=24)
    width = round(ticks[1])
    bins = end // width + 1
    # Two bins more, an empty one and one for the rest, where the axis ends before the values do.
    rest = bins + 1 if longest >= bins * width else None
    within, beyond = Counter[int](), Counter[int]()
    for value in ordered:
        index = value // width if value < bins * width or rest is None else rest
        (within if limit is None or value <= limit else beyond)[index] += 1

    top, height = 66, 248
    x = _Scale(0, (bins if rest is None else bins + 2) * width, _LEFT, _WIDTH - _RIGHT)
    y_ticks = nice_ticks(0, max((within + beyond).values()), whole=True)
    y = _Scale(0, y_ticks[-1], height - _BOTTOM, top)
    # The words under the bar for the rest need room.
    last = x(bins * width) if rest is None else x.end - 26 - 7 * len(f"to {longest:,}")
    x_ticks = [tick for tick in nice_ticks(0, bins * width, whole=True, about=6) if x(tick) <= last]
    parts = [_axes(x, y, x_ticks, y_ticks, x_label)]
    for index in sorted(within | beyond):
        start, span = x(index * width), x(width) - x(0)
        base = y.start
        for kind, count in (("bar", within[index]), ("bar beyond", beyond[index])):
            if count:
                # One value among very many is still to be seen.
                tall = max(1.0, y.start - y(count))
                parts.append(
                    f'<rect class="{kind}" x="{start + 0.4:.1f}" y="{base - tall:.1f}" width="{span - 0.8:.1f}" '
                    f'height="{tall:.1f}"/>'
                )
                base -= tall
        if index == rest:
            words = f"{bins * width:,} to {longest:,}"
            parts.append(
                f'<text class="tick" x="{start + span:.1f}" y="{y.start + 16}" text-anchor="end">to {longest:,}</text>'
            )
        else:
            words = f"{index * width:,}" if width == 1 else f"{index * width:,} to {(index + 1) * width - 1:,}"
        parts.append(
            f'<rect class="touch" x="{start:.1f}" y="{top}" width="{span:.1f}" height="{y.start - y.end:.1f}">'
            f"<title>{words}: {within[index] + beyond[index]:,}</title></rect>"
        )
    said = f"n = {n:,}"
    if limit is not None:
        cut = beyond.total()
        said = f"{cut:,} of {n:,} ({share_text(cut, n)})" if cut else f"none of {n:,}"
        said += f" beyond the limit of {limit:,}"
        if limit < bins * width:
            # A value fills the place up to the next one, so the limit itself is still within.
            at = x(min(limit + 1, x.high))
            parts.append(f'<line class="limit" x1="{at:.1f}" x2="{at:.1f}" y1="{top - 6}" y2="{y.start}"/>')
    typical = f"median {quantile(ordered, 0.5):,}, 95% up to {quantile(ordered, 0.95):,}, longest {longest:,}"
    parts.append(
        f'<text class="tick" x="10" y="34">{typical}</text>'
        f'<text class="tick{" beyond" if beyond else ""}" x="10" y="50">{said}</text>'
    )
    return _framed(title, *parts, height=height)


def share_bar(title: str, row: IntervalRow, other: str, *, reference: float = 0.5) -> str:
    """Return a bar of 100%, split into a share and the rest, with the share's interval and a reference line.

    Args:
        title: What is shown.
        row: The share on the left. The note stands under the bar.
        other: Words for the rest, on the right.
        reference: Where the line stands.
    """
    x = _Scale(0, 1, 10, _WIDTH - 10)
    top, bottom = 46, 66
    middle = (top + bottom) / 2
    where = "below" if row.high < reference else "above" if row.low > reference else "includes"
    decimals = 1 if row.high - row.low >= 0.002 else 2
    between = f"{_percent(row.low, decimals)} to {_percent(row.high, decimals)}"
    interval = f"95% interval {between}, {where} {_percent(reference)}"
    ends = "".join(
        f'<line class="spread" x1="{x(end):.1f}" x2="{x(end):.1f}" y1="{middle - 6}" y2="{middle + 6}"/>'
        for end in (row.low, row.high)
    )
    return _framed(
        title,
        f'<text class="label" x="10" y="39">{_words(row.label)} {_percent(row.value, 1)}</text>'
        f'<text class="label" x="{x.end}" y="39" text-anchor="end">{_words(other)} {_percent(1 - row.value, 1)}</text>'
        f'<rect class="rest" x="{x.start}" y="{top}" width="{x.end - x.start}" height="{bottom - top}" rx="3"/>'
        f'<rect class="bar" x="{x.start}" y="{top}" width="{x(row.value) - x.start:.1f}" height="{bottom - top}" '
        'rx="3"/>'
        f'<line class="reference" x1="{x(reference):.1f}" x2="{x(reference):.1f}" y1="{top - 4}" y2="{bottom + 4}"/>'
        f'<line class="spread" x1="{x(row.low):.1f}" x2="{x(row.high):.1f}" y1="{middle}" y2="{middle}"/>{ends}'
        f'<text class="tick" x="{x(reference):.1f}" y="{bottom + 17}" text-anchor="middle">{_percent(reference)}</text>'
        f'<text class="tick" x="10" y="{bottom + 37}">{interval}</text>'
        f'<text class="tick" x="10" y="{bottom + 53}">{_words(row.note)}</text>',
        height=bottom + 62,
    )


def count_bars(title: str, counts: Mapping[str, int], *, most: int = 7) -> str:
    """Return counts as horizontal bars, largest first, with their shares.

    Args:
        title: What is shown.
        counts: Label to count.
        most: How many bars there may be; the smallest counts share the last.
    """
    ordered = sorted(((label, count) for label, count in counts.items() if count), key=lambda entry: -entry[1])
    if len(ordered) > most:
        others = ordered[most - 1 :]
        ordered = [*ordered[: most - 1], (f"{len(others)} others", sum(count for _, count in others))]
    total = sum(count for _, count in ordered)
    x = _Scale(0, max((count for _, count in ordered), default=1), 112, 226)
    parts = [f'<text class="tick" x="10" y="34">n = {total:,}</text>']
    for index, (label, count) in enumerate(ordered):
        top = 44 + 24 * index
        short = label if len(label) <= 15 else f"{label[:14]}…"
        parts.append(
            f"<g><title>{_words(label)}: {count:,} of {total:,}</title>"
            f'<text class="label" x="10" y="{top + 13}">{_words(short)}</text>'
            f'<rect class="bar" x="{x.start}" y="{top}" width="{max(1.0, x(count) - x.start):.1f}" height="17" rx="2"/>'
            f'<text class="tick" x="{max(x(count), x.start + 1) + 6:.1f}" y="{top + 12}">'
            f"{count:,} ({share_text(count, total)})</text></g>"
        )
    return _framed(title, *parts, height=50 + 24 * len(ordered))


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
        f"{_words(reference_label)}</text>"
    )
    for index, row in enumerate(rows):
        middle = top + row_height * index + row_height / 2
        state = "better" if row.low > reference else "worse" if row.high < reference else "unclear"
        words = f"{row.label}: {_percent(row.value, 1)} [{_percent(row.low, 1)}, {_percent(row.high, 1)}]"
        parts.append(
            f'<g class="interval {state}"><title>{_words(words)}</title>'
            f'<text class="label" x="10" y="{middle + 4}">{_words(_shortened(row.label, 36))}</text>'
            f'<text class="tick" x="586" y="{middle + 4}">{_words(row.note)}</text>'
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


def quantile(ordered: Sequence[int], share: float) -> int:
    """Return the smallest of the sorted values that at least `share` of them do not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered) - 1e-9) - 1)]


def share_text(count: int, n: int) -> str:
    """Return `count` of `n` as a percentage that never rounds something to nothing, or most to all."""
    share = count / n
    if 0 < share < 0.001:
        return "under 0.1%"
    if 0.999 < share < 1:
        return "over 99.9%"
    return _percent(share, 0 if count in (0, n) else 1)


def _words(label: str) -> str:
    """Escape text from outside; no picture needs much of it."""
    return page_text(label, _MOST_BYTES, marks=False)


def _shortened(label: str, most: int) -> str:
    """Cut the middle of a label that is wider than `most` letters: its end has the number."""

    def width(part: str) -> int:
        return sum(1 + (east_asian_width(character) in "WF") for character in part)

    if width(label) <= most:
        return label
    kept, end = label[:most], f"…{label[-8:]}"
    while width(kept + end) > most:
        kept = kept[:-1]
    return kept + end


def _framed(title: str, *parts: str, width: int = _WIDTH, height: int = _HEIGHT) -> str:
    name = _words(title)
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
    x_format: Callable[[float], str] | None = None,
) -> str:
    parts = []
    for tick in y_ticks:
        text = y_format(tick) if y_format else _tick_text(tick, y_ticks)
        parts.append(
            f'<line class="grid" x1="{x.start}" x2="{x.end}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
            f'<text class="tick" x="{x.start - 6}" y="{y(tick) + 3.5:.1f}" text-anchor="end">{text}</text>'
        )
    for tick in x_ticks:
        text = x_format(tick) if x_format else _tick_text(tick, x_ticks)
        parts.append(
            f'<line class="axis" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{y.start}" y2="{y.start + 4}"/>'
            f'<text class="tick" x="{x(tick):.1f}" y="{y.start + 16}" text-anchor="middle">{text}</text>'
        )
    parts.append(f'<line class="axis" x1="{x.start}" x2="{x.end}" y1="{y.start}" y2="{y.start}"/>')
    middle = (x.start + x.end) / 2
    parts.append(
        f'<text class="tick" x="{middle:.1f}" y="{y.start + 33}" text-anchor="middle">{_words(x_label)}</text>'
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
        parts.append(f'{mark}<text class="tick" x="{left + 19:.1f}" y="{middle + 4}">{_words(label)}</text>')
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
