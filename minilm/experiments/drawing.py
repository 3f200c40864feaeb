"""What a report is drawn with: figures as SVG in the reader's own text colour, and tables."""

import html
import io
from collections.abc import Callable

from minilm.config import UserError
from minilm.experiments import tables

INK = "#010203"  # stands for the reader's text colour until the figure is written


def draw(paint: Callable, title: str, width: float = 4.6, height: float = 3.4) -> str:
    """A figure: paint(axes), as SVG in the reader's text colour."""
    try:
        import matplotlib
    except ImportError:
        raise UserError(
            'the report needs matplotlib: pip install "minilm[report]", then call the same '
            "command with --resume"
        ) from None
    from matplotlib.figure import Figure

    ink = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    style = {
        **dict.fromkeys(ink, INK),
        "svg.fonttype": "none",
        "svg.hashsalt": "minilm",
        "font.size": 10,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.add_subplot()
        paint(axes)
        axes.set_title(title, fontsize=11)
        axes.spines[["top", "right"]].set_visible(False)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    svg = file.getvalue()
    return f"<figure>{svg[svg.index('<svg') :].replace(INK, 'currentColor')}</figure>"


def colour(results: dict, name: str) -> str:
    """The same colour for an arm in every figure."""
    return f"C{[*results['arms'], *results['baselines']].index(name) % 10}"


def heat_map(
    rows: list[str], columns: list[str], values: list[list[float]], title: str, height: float = 3.4
) -> str:
    """Shares of 1 as a map with the numbers in it."""

    def paint(axes) -> None:
        """A cell a number."""
        axes.imshow(values, cmap="viridis", aspect="auto")
        middle = (max(map(max, values)) + min(map(min, values))) / 2
        for y, row in enumerate(values):
            for x, value in enumerate(row):
                shade = "black" if value > middle else "white"
                axes.text(x, y, f"{100 * value:.0f}", ha="center", va="center", color=shade)
        axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right",
                        rotation_mode="anchor")  # fmt: skip
        axes.set_yticks(range(len(rows)), rows)

    return draw(paint, title, height=height)


def table(results: dict, make: Callable[[dict], str]) -> str:
    """A table of `tables.py`, with its note."""
    lines = make(results).splitlines()
    cells = [[cell.strip() for cell in line[1:-1].split(" | ")] for line in lines]
    note = f'<p class="note">{html.escape(tables.NOTES[make])}</p>' if make in tables.NOTES else ""
    return html_table([cells[0], *cells[2:]]) + note


def html_table(rows: list[list[str]]) -> str:
    """The first row is the head."""
    kinds = ["th"] + ["td"] * (len(rows) - 1)
    inner = "".join(
        "<tr>" + "".join(f"<{kind}>{html.escape(cell)}</{kind}>" for cell in row) + "</tr>"
        for kind, row in zip(kinds, rows, strict=True)
    )
    return f'<div class="wide"><table>{inner}</table></div>'
