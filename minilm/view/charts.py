"""Charts as HTML and SVG text, by small functions that need no library.

A horizontal place is a share of the width in per cent and text keeps its size in pixels, so the
same chart is legible on a telephone and on a wide screen; colours are classes (c0 .. c7) of
style.css, which has them for light and for dark. Every text given to a function is escaped.
"""

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

HEIGHT, LABEL = 220, 17  # of a plot; between two labels, in pixels


class Row(NamedTuple):
    """A line of `intervals`: a value and where it may lie (None: it has no error)."""

    name: str
    value: float
    interval: tuple[float, float] | None
    colour: int
    note: str = ""


class Line(NamedTuple):
    """A line of `curves`: points (x, y, low, high); low and high are None without interval."""

    name: str
    points: list[tuple[float, float, float | None, float | None]]
    colour: int


def number(value: float) -> str:
    """A short form: 98.6, 0.042, 1.2 M.

    >>> number(98.64), number(0.0421), number(2048000), number(0)
    ('98.6', '0.042', '2.05 M', '0')
    """
    for size, unit in ((1e15, " P"), (1e12, " T"), (1e9, " G"), (1e6, " M"), (1e4, " k")):
        if abs(value) >= size:
            size = 1e3 if unit == " k" else size
            return f"{value / size:.3g}{unit}"
    if value == round(value) and abs(value) < 1e4:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2g}"


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers between two others.

    >>> ticks(0.0, 100.0)
    [0.0, 25.0, 50.0, 75.0, 100.0]
    """
    span = high - low
    if not span > 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(span))
    steps = [factor * power for factor in (0.1, 0.2, 0.25, 0.5, 1.0, 2.0)]
    step = next(step for step in steps if span / step <= most - 1 + 1e-9 or step == steps[-1])
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def figure(title: str, note: str, inside: str) -> str:
    """A chart with its title, and one line on how it is read."""
    caption = f"{escape(title)}<span>{escape(note)}</span>"
    return f"<figure><figcaption>{caption}</figcaption>{inside}</figure>"


def intervals(
    title: str,
    note: str,
    rows: Sequence[Row],
    low: float,
    high: float,
    mark: float | None = None,
    unit: str = "",
) -> str:
    """A dot and its interval for each row, on one scale from `low` to `high`; `mark` is a dashed
    line through all rows, such as chance or no difference."""

    def at(value: float) -> str:
        """The place of a value on the scale."""
        return f"{100 * min(1.0, max(0.0, (value - low) / (high - low))):.2f}%"

    parts = []
    for row in rows:
        figures = number(row.value) + unit
        line = '<line class="rule" x1="0" x2="100%" y1="8" y2="8"/>'
        if mark is not None:
            line += f'<line class="dashed" x1="{at(mark)}" x2="{at(mark)}" y1="0" y2="16"/>'
        if row.interval is not None:
            a, b = row.interval
            figures += f" ({number(a)} to {number(b)})"
            line += f'<line class="thick" x1="{at(a)}" x2="{at(b)}" y1="8" y2="8"/>'
        line += f'<circle cx="{at(row.value)}" cy="8" r="5"/>'
        more = f' <span class="note">{escape(row.note)}</span>' if row.note else ""
        parts.append(
            f'<div class="row c{row.colour % 8}"><p><span><span class="name">{escape(row.name)}'
            f'</span>{more}</span><span>{figures}</span></p><svg height="16" role="img" '
            f'aria-label="{escape(row.name)}: {figures}">{line}</svg></div>'
        )
    places = "".join(
        f'<text x="{at(x)}" y="12" text-anchor="{_anchor(x, low, high)}">{number(x)}{unit}</text>'
        for x in ticks(low, high)
    )
    parts.append(f'<svg height="16" aria-hidden="true">{places}</svg>')
    return figure(title, note, "".join(parts))


def curves(
    title: str,
    note: str,
    lines: Sequence[Line],
    x_label: str,
    unit: str = "",
    marks: Sequence[tuple[str, float]] = (),
    low: float | None = None,
    high: float | None = None,
) -> str:
    """Lines over one scale, each named at its right end; `marks` are named dashed levels. Intervals
    stand as thin upright bars at the points."""
    points = [point for line in lines for point in line.points]
    heights = [y for point in points for y in point[1:] if y is not None] + [y for _, y in marks]
    left, right = min(p[0] for p in points), max(p[0] for p in points)
    low = min(heights) if low is None else low
    high = max(heights) if high is None else high
    high = high if high > low else low + 1.0

    def x(value: float) -> str:
        return f"{100 * (value - left) / max(right - left, 1e-12):.2f}%"

    def y(value: float) -> float:
        return round(8 + (HEIGHT - 16) * (high - min(max(value, low), high)) / (high - low), 1)

    scale = "".join(
        f'<text x="2.6rem" y="{y(t) + 4}" text-anchor="end">{number(t)}{unit}</text>'
        for t in ticks(low, high)
    )
    plot = "".join(
        f'<line x1="0" x2="100%" y1="{y(t)}" y2="{y(t)}"/>' for t in ticks(low, high)
    ) + "".join(
        f'<line class="dashed" x1="0" x2="100%" y1="{y(level)}" y2="{y(level)}"/>'
        for _, level in marks
    )  # fmt: skip
    ends = [(y(level), name, "") for name, level in marks]
    for line in lines:
        drawn = "".join(
            f'<line class="thick" x1="{x(a[0])}" y1="{y(a[1])}" x2="{x(b[0])}" y2="{y(b[1])}"/>'
            for a, b in zip(line.points, line.points[1:], strict=False)
        )
        for px, py, a, b in line.points:
            drawn += f'<circle cx="{x(px)}" cy="{y(py)}" r="3"/>'
            if a is not None and b is not None:
                drawn += f'<line x1="{x(px)}" x2="{x(px)}" y1="{y(a)}" y2="{y(b)}"/>'
        plot += f'<g class="c{line.colour % 8}">{drawn}</g>'
        ends.append((y(line.points[-1][1]), line.name, f' class="strong c{line.colour % 8}"'))
    ends.sort()
    names = "".join(
        f'<text x="8" y="{height + 4:.1f}"{kind}>{escape(name)}</text>'
        for height, (_, name, kind) in zip(_apart([end[0] for end in ends]), ends, strict=True)
    )
    below = (
        f'<text x="0" y="{HEIGHT + 14}">{number(left)}</text><text x="100%" y="{HEIGHT + 14}" '
        f'text-anchor="end">{number(right)} {escape(x_label)}</text>'
    )
    svg = f'<svg height="{HEIGHT + 20}"'
    inside = (
        f'<div class="plot">{svg} aria-hidden="true">{scale}</svg>{svg} role="img" '
        f'aria-label="{escape(title)}">{plot}{below}</svg>{svg}>{names}</svg></div>'
    )
    return figure(title, note, inside)


def tokens(pieces: Sequence[tuple[str, float, str]]) -> str:
    """A text whose tokens are shaded: (text, weight from -1 to 1, what to show when pointed at).
    Weights above 0 have the colour c0, below it c1."""
    spans = (
        f'<span class="token c{0 if weight >= 0 else 1}" style="--w: {min(1.0, abs(weight)):.2f}" '
        f'title="{escape(title)}">{escape(text)}</span>'
        for text, weight, title in pieces
    )
    return f'<div class="tokens">{"".join(spans)}</div>'


def _anchor(value: float, low: float, high: float) -> str:
    """How a label on the scale is set, so that the outer ones stay inside."""
    share = (value - low) / (high - low)
    return "start" if share < 0.05 else "end" if share > 0.95 else "middle"


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
