"""Charts as HTML and SVG, and the one way in which this package makes HTML: Jinja, which escapes.

A horizontal place is a share of the width in per cent and text keeps its size in pixels, so the
same chart is legible on a telephone and on a wide screen; colours are classes (c0 .. c7) of
style.css, which has them for light and for dark. Every text given to a function is shown as text.
"""

import functools
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

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


def intervals(
    title: str, note: str, rows: Sequence[Row], low: float, high: float,
    mark: float | None = None, unit: str = "",
) -> Markup:  # fmt: skip
    """A dot and its interval for each row, on one scale from `low` to `high`; `mark` is a dashed
    line through all rows, such as chance or no difference."""
    x, scale = lambda value: f"{100 * _share(value, low, high):.2f}%", []
    for value in ticks(low, high):  # the outer labels stay inside
        share = _share(value, low, high)
        scale.append((value, "start" if share < 0.05 else "end" if share > 0.95 else "middle"))
    return draw("intervals", title, note, rows, x, mark, scale, unit)


def curves(
    title: str, note: str, lines: Sequence[Line], x_label: str, unit: str = "",
    marks: Sequence[tuple[str, float]] = (), low: float | None = None, high: float | None = None,
) -> Markup:  # fmt: skip
    """Lines over one scale, each named at its right end; `marks` are named dashed levels. Intervals
    stand as thin upright bars at the points."""
    points = [point for line in lines for point in line.points]
    heights = [y for point in points for y in point[1:]] + [y for _, y in marks]
    left, right = min(point[0] for point in points), max(point[0] for point in points)
    low = min(heights) if low is None else low
    high = max(heights) if high is None else high
    high = high if high > low else low + max(1.0, 1e-9 * abs(low))
    x = lambda value: f"{100 * _share(value, left, right):.2f}%"
    y = lambda value: round(8 + (HEIGHT - 16) * (1 - _share(value, low, high)), 1)
    ends = [(y(level), name, "") for name, level in marks]
    ends += [(y(line.points[-1][1]), line.name, f"strong c{line.colour % 8}") for line in lines]
    ends.sort()
    places = [round(place + 4, 1) for place in _apart([end[0] for end in ends])]
    ends = [(place, *end[1:]) for place, end in zip(places, ends, strict=True)]
    levels, scale = [level for _, level in marks], ticks(low, high)
    across = number(left), f"{number(right)} {x_label}"
    return draw("curves", title, note, lines, x, y, scale, levels, ends, *across, HEIGHT, unit)


def render(name: str, /, **values) -> Markup:
    """A template of the package, "folder/name.html", as HTML: values of anyone's are shown and do
    nothing."""
    return Markup(_environment().get_template(name).render(**values))


def draw(macro: str, *values) -> Markup:
    """One of charts.html."""
    return getattr(_environment().get_template("view/charts.html").module, macro)(*values)


@functools.cache
def _environment() -> Environment:
    harmless = lambda x: escaped(x) if isinstance(x, str) and not isinstance(x, Markup) else x
    made = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=harmless,
                       loader=FileSystemLoader(Path(__file__).parents[1]))  # fmt: skip
    made.globals.update(number=number, pairwise=pairwise)
    return made


def _share(value: float, low: float, high: float) -> float:
    """Where a value lies between two others: 0 at `low` or below it, 1 at `high` or above."""
    return min(1.0, max(0.0, (value - low) / max(high - low, 1e-12)))


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
