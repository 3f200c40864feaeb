"""Charts as HTML and SVG text, by small functions that need no library.

A horizontal place is a share of the width in per cent and text keeps its size in pixels, so the
same chart is legible on a telephone and on a wide screen; colours are classes (c0 .. c7) of
style.css, which has them for light and for dark. Every text given to a function is escaped.
"""

import math
from collections.abc import Sequence
from html import escape
from itertools import pairwise
from typing import NamedTuple

from minilm.io.terminal import escaped

HEIGHT, LABEL = 220, 17  # of a plot; between two labels, in pixels


class Row(NamedTuple):
    """A line of `intervals`: a value and where it may lie (None: it has no error)."""

    name: str
    value: float
    interval: tuple[float, float] | None
    colour: int
    note: str = ""


class Line(NamedTuple):
    """A line of `curves`."""

    name: str
    points: list[tuple[float, ...]]  # (x, y), or with an interval (x, y, low, high)
    colour: int


def safe(text) -> str:
    """A text of anyone's as HTML that shows it and does nothing."""
    return escape(escaped(str(text)))


def number(value: float) -> str:
    """A short form: 98.6, 0.042, 1.2 M.

    >>> number(98.64), number(0.0421), number(2048000), number(0)
    ('98.6', '0.042', '2.05 M', '0')
    """
    if abs(value) >= 1e4:
        thousands = min(5, int(math.log10(abs(value))) // 3)
        return f"{value / 1000**thousands:.3g} {' kMGTP'[thousands]}"
    if value == round(value):
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2g}"


def ticks(low: float, high: float) -> list[float]:
    """At most five round numbers between two others.

    >>> ticks(0.0, 100.0)
    [0.0, 25.0, 50.0, 75.0, 100.0]
    """
    power = 10.0 ** math.floor(math.log10(high - low))
    steps = [factor * power for factor in (0.1, 0.2, 0.25, 0.5, 1.0, 2.0)]
    step = next((step for step in steps if (high - low) / step <= 4 + 1e-9), steps[-1])
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def figure(title: str, note: str, inside: str) -> str:
    """A chart with its title, and one line on how it is read."""
    caption = f"{safe(title)}<span>{safe(note)}</span>"
    return f"<figure><figcaption>{caption}</figcaption>{inside}</figure>"


def intervals(
    title: str, note: str, rows: Sequence[Row], low: float, high: float,
    mark: float | None = None, unit: str = "",
) -> str:  # fmt: skip
    """A dot and its interval for each row, on one scale from `low` to `high`; `mark` is a dashed
    line through all rows, such as chance or no difference."""
    at = lambda value: f"{100 * _share(value, low, high):.2f}%"
    drawn = scale = ""
    for row in rows:
        name, figures = safe(row.name), number(row.value) + unit
        lines = _line("0", "100%", 8, 8, "rule")
        if mark is not None:
            lines += _line(at(mark), at(mark), 0, 16, "dashed")
        if row.interval is not None:
            a, b = row.interval
            figures += f" ({number(a)} to {number(b)})"
            lines += _line(at(a), at(b), 8, 8, "thick")
        drawn += (
            f'<div class="row c{row.colour % 8}"><p><span><span class="name">{name}</span> '
            f'<span class="note">{safe(row.note)}</span></span><span>{figures}</span></p>'
            f'<svg height="16" role="img" aria-label="{name}: {figures}">{lines}'
            f'<circle cx="{at(row.value)}" cy="8" r="5"/></svg></div>'
        )
    for value in ticks(low, high):  # the outer labels stay inside
        share = _share(value, low, high)
        anchor = "start" if share < 0.05 else "end" if share > 0.95 else "middle"
        scale += _text(at(value), 12, number(value) + unit, anchor)
    return figure(title, note, f'{drawn}<svg height="16" aria-hidden="true">{scale}</svg>')


def curves(
    title: str, note: str, lines: Sequence[Line], x_label: str, unit: str = "",
    marks: Sequence[tuple[str, float]] = (), low: float | None = None, high: float | None = None,
) -> str:  # fmt: skip
    """Lines over one scale, each named at its right end; `marks` are named dashed levels. Intervals
    stand as thin upright bars at the points."""
    points = [point for line in lines for point in line.points]
    heights = [y for point in points for y in point[1:]] + [y for _, y in marks]
    left, right = min(point[0] for point in points), max(point[0] for point in points)
    low = min(heights) if low is None else low
    high = max(heights) if high is None else high
    high = high if high > low else low + 1.0
    x = lambda value: f"{100 * _share(value, left, right):.2f}%"
    y = lambda value: round(8 + (HEIGHT - 16) * (1 - _share(value, low, high)), 1)

    scale = plot = names = ""
    for value in ticks(low, high):
        scale += _text("2.6rem", y(value) + 4, number(value) + unit, "end")
        plot += _line("0", "100%", y(value), y(value))
    ends = [(y(level), name, "") for name, level in marks]
    for height, _, _ in ends:
        plot += _line("0", "100%", height, height, "dashed")
    for line in lines:
        drawn, colour = "", f"c{line.colour % 8}"
        for a, b in pairwise(line.points):
            drawn += _line(x(a[0]), x(b[0]), y(a[1]), y(b[1]), "thick")
        for at, value, *interval in line.points:
            drawn += f'<circle cx="{x(at)}" cy="{y(value)}" r="3"/>'
            if interval:
                drawn += _line(x(at), x(at), *map(y, interval))
        plot += f'<g class="{colour}">{drawn}</g>'
        ends.append((y(line.points[-1][1]), line.name, f"strong {colour}"))
    ends.sort()
    for place, (_, name, look) in zip(_apart([end[0] for end in ends]), ends, strict=True):
        names += _text("8", round(place + 4, 1), name, look=look)
    plot += _text("0", HEIGHT + 14, number(left))
    plot += _text("100%", HEIGHT + 14, f"{number(right)} {x_label}", "end")
    svg = f'<svg height="{HEIGHT + 20}"'
    return figure(
        title, note,
        f'<div class="plot">{svg} aria-hidden="true">{scale}</svg>{svg} role="img" '
        f'aria-label="{safe(title)}">{plot}</svg>{svg}>{names}</svg></div>',
    )  # fmt: skip


def tokens(pieces: Sequence[tuple[str, float, str]]) -> str:
    """A text whose tokens are shaded: (text, weight from -1 to 1, what to show when pointed at).
    Weights above 0 have the colour c0, below it c1."""
    spans = (
        f'<span class="token c{int(weight < 0)}" style="--w: {min(1.0, abs(weight)):.2f}" '
        f'title="{safe(title)}">{safe(text)}</span>'
        for text, weight, title in pieces
    )
    return f'<div class="tokens">{"".join(spans)}</div>'


def _share(value: float, low: float, high: float) -> float:
    """Where a value lies between two others: 0 at `low` or below it, 1 at `high` or above."""
    return min(1.0, max(0.0, (value - low) / max(high - low, 1e-12)))


def _line(x1: str, x2: str, y1: float, y2: float, look: str = "") -> str:
    return f'<line class="{look}" x1="{x1}" x2="{x2}" y1="{y1}" y2="{y2}"/>'


def _text(x: str, y: float, text: str, anchor: str = "start", look: str = "") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" class="{look}">{safe(text)}</text>'


def _apart(heights: list[float]) -> list[float]:
    """Sorted heights, moved as little as it takes for labels not to touch.

    >>> _apart([10.0, 12.0, 100.0])
    [2.5, 19.5, 100.0]
    """
    groups: list[tuple[float, int]] = []  # (middle, how many)
    for height in heights:
        groups.append((height, 1))
        while len(groups) > 1:
            (a, n), (b, m) = groups[-2:]
            if b - a >= LABEL * (n + m) / 2:
                break
            groups[-2:] = [((a * n + b * m) / (n + m), n + m)]
    return [middle + LABEL * (i - (n - 1) / 2) for middle, n in groups for i in range(n)]
