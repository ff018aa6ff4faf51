"""Charts as inline SVG: they take the page's colours, so that they follow its light or dark theme, and scale with it.

Classes, coloured in page.html.j2: `ink` text, `faint` grid, `mark` the figure, `beside` its baseline, `s0`-`s4` curves.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from html import escape

from components.report.table import Figure

Series = dict[str, list[tuple[float, float]]]
"""Name of a curve -> its (step, value) points."""

WIDTH = 980
LABEL_WIDTH = 400
ROW = 26
MAX_POINTS = 240
"""Points drawn of one curve; more are averaged in bins."""


def interval_chart(figures: Sequence[Figure]) -> str:
    """One row a figure: a dot at its value, a line over its interval, a tick at its baseline; 0 to 100 percent.

    Values beyond 100% (word error rates can be) sit at the right edge with an arrow.
    """
    left, right, top = LABEL_WIDTH, WIDTH - 70, 26
    height = top + ROW * len(figures) + 6

    def at(value: float) -> float:
        return left + (right - left) * min(max(value, 0.0), 1.0)

    parts = []
    for percent in (0, 25, 50, 75, 100):
        x = at(percent / 100)
        parts.append(f'<line class="faint" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{height - 6}"/>')
        parts.append(f'<text class="ink small" x="{x:.1f}" y="{top - 9}" text-anchor="middle">{percent}%</text>')
    for index, item in enumerate(figures):
        y = top + ROW * index + ROW / 2
        parts.append(
            f'<text class="ink" x="{left - 12}" y="{y + 4:.1f}" text-anchor="end">{escape(item.line.label)}</text>'
        )
        if item.baseline is not None:
            x = at(item.baseline)
            title = f"{item.line.beside}: {item.show(item.baseline)}"
            parts.append(
                f'<line class="beside" x1="{x:.1f}" x2="{x:.1f}" y1="{y - 8:.1f}" y2="{y + 8:.1f}">'
                f"<title>{escape(title)}</title></line>"
            )
        if item.low is not None and item.high is not None:
            parts.append(
                f'<line class="mark" x1="{at(item.low):.1f}" x2="{at(item.high):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
            )
        title = f"{item.show(item.value)} ({item.interval})" if item.interval else item.show(item.value)
        parts.append(
            f'<circle class="mark" cx="{at(item.value):.1f}" cy="{y:.1f}" r="5"><title>{escape(title)}</title></circle>'
        )
        arrow = " ▸" if item.value > 1 else ""
        parts.append(f'<text class="ink" x="{right + 12}" y="{y + 4:.1f}">{item.show(item.value)}{arrow}</text>')
    label = "; ".join(f"{item.line.label}: {item.show(item.value)}" for item in figures)
    return _svg(WIDTH, height, parts, label)


def line_chart(series: Series, title: str, *, width: int = 372, height: int = 220) -> str:
    """Curves over optimizer steps, each at most MAX_POINTS points, with a legend below the title.

    Points that are not finite are left out; a chart without any is an empty string.
    """
    series = {name: points for name, raw in series.items() if (points := thin(raw))}
    if not series:
        return ""
    left, right, top, bottom = 50, width - 10, 44, height - 26
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points]
    (x0, x1), ticks = (min(xs), max(xs)), nice_ticks(min(ys), max(ys))
    y0, y1 = ticks[0], ticks[-1]

    def place(x: float, y: float) -> str:
        across = left + (right - left) * ((x - x0) / (x1 - x0) if x1 > x0 else 0.5)
        return f"{across:.1f},{bottom - (bottom - top) * (y - y0) / (y1 - y0):.1f}"

    parts = [f'<text class="ink strong" x="4" y="15">{escape(title)}</text>']
    for tick in ticks:
        y = bottom - (bottom - top) * (tick - y0) / (y1 - y0)
        parts.append(f'<line class="faint" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="ink small" x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:.4g}</text>')
    for x, anchor in ((x0, "start"), (x1, "end")):
        where = left if anchor == "start" else right
        parts.append(f'<text class="ink small" x="{where}" y="{height - 8}" text-anchor="{anchor}">{x:,.0f}</text>')
    parts.append(f'<text class="ink small" x="{(left + right) / 2}" y="{height - 8}" text-anchor="middle">step</text>')
    offset = 4.0
    for index, (name, points) in enumerate(series.items()):
        color = f"s{index % 5}"
        if len(points) == 1:
            across, down = place(*points[0]).split(",")
            parts.append(f'<circle class="dot {color}" cx="{across}" cy="{down}" r="3"/>')
        else:
            path = " ".join(place(x, y) for x, y in points)
            parts.append(f'<polyline class="curve {color}" points="{path}"><title>{escape(name)}</title></polyline>')
        parts.append(f'<rect class="fill {color}" x="{offset:.0f}" y="24" width="10" height="10" rx="2"/>')
        parts.append(f'<text class="ink small" x="{offset + 14:.0f}" y="33">{escape(name)}</text>')
        offset += 26 + 6.3 * len(name)
    ends = "; ".join(f"{name} ends at {points[-1][1]:.4g}" for name, points in series.items())
    return _svg(width, height, parts, f"{title}: {ends}")


def usage_chart(counts: Sequence[int], *, width: int = WIDTH, height: int = 200) -> str:
    """How often each code of the codebook occurs, most frequent first, on a logarithmic scale."""
    ordered = sorted((int(count) for count in counts), reverse=True)
    if not ordered or not ordered[0]:
        return ""
    left, right, top, bottom = 56, width - 10, 12, height - 28
    ceiling = max(1.0, math.log10(ordered[0] + 1))
    used = sum(count > 0 for count in ordered)
    step = max(1, len(ordered) // 400)
    shown = ordered[::step]
    points = [
        f"{left + (right - left) * index / max(1, len(shown) - 1):.1f},"
        f"{bottom - (bottom - top) * math.log10(count + 1) / ceiling:.1f}"
        for index, count in enumerate(shown)
    ]
    parts = []
    for exponent in range(math.floor(ceiling) + 1):
        y = bottom - (bottom - top) * math.log10(10**exponent + (exponent == 0)) / ceiling
        parts.append(f'<line class="faint" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(
            f'<text class="ink small" x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{10**exponent:,}</text>'
        )
    parts.append(f'<polygon class="area s0" points="{left},{bottom} {" ".join(points)} {right},{bottom}"/>')
    parts.append(f'<text class="ink small" x="{left}" y="{height - 8}">most frequent code</text>')
    parts.append(
        f'<text class="ink small" x="{right}" y="{height - 8}" text-anchor="end">'
        f"{used:,} of {len(ordered):,} codes occur</text>"
    )
    return _svg(width, height, parts, f"{used} of {len(ordered)} codes occur, the most frequent {ordered[0]} times")


def thin(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most MAX_POINTS finite points in the order of their steps; more are averaged in bins of equal count."""
    finite = sorted((float(x), float(y)) for x, y in points if math.isfinite(x) and math.isfinite(y))
    if len(finite) <= MAX_POINTS:
        return finite
    edges = [round(index * len(finite) / MAX_POINTS) for index in range(MAX_POINTS + 1)]
    bins = [finite[a:b] for a, b in itertools.pairwise(edges)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in bins]


def nice_ticks(low: float, high: float, num: int = 4) -> list[float]:
    """Round tick values that enclose [low, high], about `num` steps of 1, 2 or 5 times a power of ten."""
    if not high > low:
        low, high = low - 0.5 * (abs(low) or 1.0), high + 0.5 * (abs(high) or 1.0)
    rough = (high - low) / num
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, max(last, first + 1) + 1)]


def _svg(width: float, height: float, parts: list[str], label: str) -> str:
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label, quote=True)}">'
        f"{''.join(parts)}</svg>"
    )
