"""A comparison's results as one HTML file that opens anywhere: every figure is drawn into it as
SVG, in the reader's own text colour, so that it serves a light screen and a dark one."""

import html
import io
from collections.abc import Callable
from pathlib import Path

from minilm.config import UserError
from minilm.durable import write_file
from minilm.experiments import tables

INK = "#010203"  # stands for the reader's text colour until the figure is written
STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 62rem; padding: 0 1rem 4rem;
  color: light-dark(#1c1c1c, #e4e4e4); background: light-dark(#fdfdfd, #17191c); }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; }
.figures { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: 0; flex: 1 1 min(26rem, 100%); max-width: 30rem; }
figure svg { width: 100%; height: auto; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; }
td, th { padding: .2rem .7rem; text-align: left; border-bottom: 1px solid #8886; }
.note { max-width: 45rem; opacity: .85; }
"""


def write_report(results: dict, path: Path) -> None:
    """Draw everything that results.json holds. Raises UserError where matplotlib is missing."""
    write_file(path, page(results).encode("utf-8"))


def page(results: dict) -> str:
    """The whole report."""
    card = results["card"]
    sections = [
        ("Run card", [card_table(card)]),
        ("Learning curves", [*curves(results), table(results, tables.spent)]),
        ("Accuracy over what pretraining spent", axes(results)),
        (
            "Accuracy by number of labels",
            [label_curve(results), table(results, tables.label_curve),
             "<h3>Labels that scratch needs to be as good</h3>",
             table(results, tables.labels_saved)],
        ),
        ("The final test", [finals(results), table(results, tables.finals)]),
        ("Which differences are real", [matrix(results), table(results, tables.verdicts)]),
        ("Pooling and attention", [pooling(results), table(results, tables.pooling)]),
        ("Learning rate of fine-tuning", [sweep(results), table(results, tables.sweep)]),
        ("Answers", [table(results, tables.answers)]),
    ]  # fmt: skip
    body = "".join(_section(title, parts) for title, parts in sections)
    title = f"Which objective is better for what? {card['data']}, {card['size']}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>"
        f"<body><h1>{html.escape(title)}</h1>{body}</body></html>\n"
    )


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


def curves(results: dict) -> list[str]:
    """One panel for each reading: losses of different ones have nothing to do with each other."""

    def panel(reading: str, title: str) -> str:
        """The arms that are measured by a reading, and what counting words reaches."""

        def paint(axes) -> None:
            """Thousands of tokens across, nats a target up."""
            for arm, runs in results["pretraining"].items():
                for i, run in enumerate(runs):
                    points = [p for p in run["curve"] if f"{reading}_loss" in p]
                    x = [p["tokens"] / 1e3 for p in points]
                    y = [p[f"{reading}_loss"] for p in points]
                    label = arm if i == 0 and points else None
                    axes.plot(x, y, "o-", ms=3, lw=1.2, label=label, color=colour(results, arm))
            for name, value in results["lines"].items():
                if reading == "causal" or name == "unigram":
                    axes.axhline(value, ls=":", lw=1, color=INK)
                    axes.annotate(name, (1, value), xycoords=("axes fraction", "data"),
                                  ha="right", va="bottom", fontsize=8)  # fmt: skip
            axes.set(xlabel="thousand tokens read", ylabel="nats a target")
            axes.legend(fontsize=8, frameon=False)

        return draw(paint, title)

    measured = {reading for readings in results["readings"].values() for reading in readings}
    titles = {"causal": "next-token loss", "masked": "masked-token loss"}
    return [panel(name, title) for name, title in titles.items() if name in measured]


def axes(results: dict) -> list[str]:
    """The final accuracy over each of the four budgets."""

    def panel(axis: str) -> str:
        """One budget."""

        def paint(axes) -> None:
            """A point a seed."""
            for arm in results["arms"]:
                points = [p for p in results["axes"] if p["arm"] == arm]
                axes.plot([p[axis] for p in points], [100 * p["accuracy"] for p in points], "o",
                          ms=5, alpha=0.8, label=arm, color=colour(results, arm))  # fmt: skip
            axes.set(xlabel=f"{axis} of pretraining", ylabel="test accuracy, %")
            axes.legend(fontsize=8, frameon=False)

        return draw(paint, f"by {axis}")

    return [panel(axis) for axis in ("tokens", "targets", "flops", "seconds")]


def label_curve(results: dict) -> str:
    """Means over draws, with bands; baselines dashed."""
    curve = results["label_curve"]

    def paint(axes) -> None:
        """Labels across, on a logarithmic scale."""
        for name in [*results["arms"], *results["baselines"]]:
            shade, dashed = colour(results, name), name in results["baselines"]
            mean = [100 * m for m in curve["mean"][name]]
            axes.plot(curve["sizes"], mean, "--" if dashed else "o-", ms=3, label=name, color=shade)
            if None not in curve["low"][name]:
                bounds = ([100 * b for b in curve[key][name]] for key in ("low", "high"))
                axes.fill_between(curve["sizes"], *bounds, alpha=0.12, color=shade, lw=0)
        axes.set(xscale="log", xlabel="labels", ylabel="test accuracy, %", ylim=(0, 100))
        axes.set_xticks(curve["sizes"], [f"{n:,}" for n in curve["sizes"]])
        axes.minorticks_off()
        axes.legend(fontsize=8, frameon=False)

    return draw(paint, "mean over draws, and its 95 % interval")


def finals(results: dict) -> str:
    """Means with both intervals."""
    final, names = results["finals"], [*results["arms"], *results["baselines"]][::-1]

    def paint(axes) -> None:
        """An arm a line: thick what test rows leave open, thin what seeds leave open."""
        for y, name in enumerate(names):
            for key, width in (("seed_interval", 1), ("row_interval", 4)):
                if bounds := final[key][name]:
                    axes.plot([100 * b for b in bounds], [y, y], lw=width, solid_capstyle="butt",
                              color=colour(results, name))  # fmt: skip
            axes.plot(100 * final["mean"][name], y, "o", ms=6, color=INK)
        axes.set_yticks(range(len(names)), names)
        axes.set(xlabel="test accuracy, %", xlim=(0, 100))

    return draw(paint, "thick: from test rows; thin: from seeds")


def matrix(results: dict) -> str:
    """Row minus column in points, for every pair; bold where it is real."""
    names = [*results["arms"], *results["baselines"]]
    found = {(v["a"], v["b"]): v for v in results["verdicts"]}
    cells = [["" for _ in names] for _ in names]
    for (a, b), verdict in found.items():
        for row, column, sign in ((a, b, 1), (b, a, -1)):
            text = f"{sign * 100 * verdict['difference']:+.1f}"
            real = f"<b>{text}</b>" if verdict["verdict"] == "real" else f"{text} ?"
            cells[names.index(row)][names.index(column)] = real
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ["row minus column", *names])
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>"
        for name, row in zip(names, cells, strict=True)
    )
    return f'<div class="wide"><table><tr>{head}</tr>{rows}</table></div>' + (
        "<p>Points of accuracy. Bold: real; with a question mark: undecided.</p>"
    )


def heat_map(rows: list[str], columns: list[str], values: list[list[float]], title: str) -> str:
    """Shares of 1 as a map with the numbers in it."""

    def paint(axes) -> None:
        """A cell a number."""
        axes.imshow(values, cmap="viridis", aspect="auto")
        middle = (max(map(max, values)) + min(map(min, values))) / 2
        for y, row in enumerate(values):
            for x, value in enumerate(row):
                shade = "black" if value > middle else "white"
                axes.text(x, y, f"{100 * value:.0f}", ha="center", va="center", color=shade)
        axes.set_xticks(range(len(columns)), columns, rotation=20, ha="right")
        axes.set_yticks(range(len(rows)), rows)

    return draw(paint, title)


def sweep(results: dict) -> str:
    """Validation accuracy by learning rate."""
    found = results["sweep"]
    rates = [f"{rate:g}" for rate in found["rates"]]
    values = list(found["accuracy"].values())
    return heat_map(list(found["accuracy"]), rates, values, "validation accuracy, %")


def pooling(results: dict) -> str:
    """Test accuracy by pooling and attention."""
    found = results["pooling"]
    settings = [setting.replace("/", ", ") for setting in found["settings"]]
    values = [[sum(d) / len(d) for d in row] for row in found["accuracy"].values()]
    return heat_map(list(found["accuracy"]), settings, values, "test accuracy, %")


def card_table(card: dict) -> str:
    """The run card, what is long or nested left to results.json."""
    shown = {
        **{k: v for k, v in card.items() if not isinstance(v, dict | list)},
        **{f"{k} {inner}": v for k in ("versions", "labels") for inner, v in card[k].items()},
    }
    return _html_table(
        [["", ""], *([key.replace("_", " "), _number(value)] for key, value in shown.items())]
    )


def table(results: dict, make: Callable[[dict], str]) -> str:
    """A table of `tables.py`, with its note."""
    lines = make(results).splitlines()
    cells = [[cell.strip() for cell in line[1:-1].split(" | ")] for line in lines]
    note = f'<p class="note">{html.escape(tables.NOTES[make])}</p>' if make in tables.NOTES else ""
    return _html_table([cells[0], *cells[2:]]) + note


def _html_table(rows: list[list[str]]) -> str:
    """The first row is the head."""
    kinds = ["th"] + ["td"] * (len(rows) - 1)
    inner = "".join(
        "<tr>" + "".join(f"<{kind}>{html.escape(cell)}</{kind}>" for cell in row) + "</tr>"
        for kind, row in zip(kinds, rows, strict=True)
    )
    return f'<div class="wide"><table>{inner}</table></div>'


def _section(title: str, parts: list[str]) -> str:
    figures = "".join(part for part in parts if part.startswith("<figure"))
    rest = "".join(part for part in parts if not part.startswith("<figure"))
    return f'<h2>{html.escape(title)}</h2><div class="figures">{figures}</div>{rest}'


def _number(value) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
