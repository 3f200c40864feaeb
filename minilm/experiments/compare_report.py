"""A comparison's results as one HTML file that opens anywhere: every figure is drawn into it as
SVG, in the reader's own text colour, so that it serves a light screen and a dark one."""

import html
from pathlib import Path

from minilm.durable import write_file
from minilm.experiments import analyses_report, summary, tables
from minilm.experiments.drawing import INK, colour, draw, heat_map, html_table, table
from minilm.experiments.findings import findings

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
.question { font-size: 1.1rem; } .note, .question, .finding { max-width: 45rem; }
.note, .question { opacity: .85; } .finding { border-left: 4px solid #38f8; padding-left: .8rem; }
"""

QUESTIONS = {  # what each section answers, in plain words
    "Run card": "What was run, on what, and what did it take?",
    "Learning curves": "Did every arm learn more than how often words occur, and was it still "
    "learning at the end?",
    "Accuracy over what pretraining spent": "The arms had the same of one budget. Does the order "
    "change when another one is counted, and was the second half of it worth it?",
    "Accuracy by number of labels": "How many labels does it take, and how many does pretraining "
    "save?",
    "The final test": "How good is each arm with the most labels, and how sure is that?",
    "Which differences are real": "Which arms can be told apart, and which only look different?",
    "Pooling and attention": "How should a text become one vector, and may its words look ahead?",
    "Learning rate of pretraining": "Was each arm trained at a learning rate that suits it, or are "
    "learning rates what is compared here?",
    "Learning rate of fine-tuning": "How much depends on the learning rate, and is it the same one "
    "for every arm?",
    "Grammar": "Of two sentences, does the net hold the right one for likelier?",
    "Where the label lives": "After which block can the label be read off, before any fine-tuning?",
    "What each can do": "What do the nets write, and what do they put into gaps?",
    "What each sees": "Where does each head look, how far, and how widely?",
    "Which words drove a prediction": "What did the classifier go by, where it was right and where "
    "it was wrong?",
    "Is it right as often as it is sure?": "When it says 90 %, is it right nine times in ten?",
    "Who is spoken of": "Does the label change with the names and pronouns in a sentence?",
    "Answers": "So what?",
}


AXES_NOTE = (
    '<p class="note">Large points are means. An arm\'s first one is half-way, before its learning '
    "rate falls, which makes it look worse than a whole pretraining of that length would be. "
    "Causal-then-masked is causal half-way.</p>"
)


def write_report(results: dict, path: Path) -> None:
    """Draw everything that results.json holds. Raises UserError where matplotlib is missing."""
    write_file(path, page(results).encode("utf-8"))


def page(results: dict) -> str:
    """The whole report."""
    card = results["card"]
    sections = [
        ("Run card", [card_table(card)]),
        ("Learning curves", [*curves(results), table(results, tables.spent)]),
        ("Accuracy over what pretraining spent", [*axes(results), AXES_NOTE]),
        (
            "Accuracy by number of labels",
            [label_curve(results), table(results, tables.label_curve), *scratch_needs(results)],
        ),
        ("The final test", [finals(results), table(results, tables.finals)]),
        ("Which differences are real", [matrix(results), table(results, tables.verdicts)]),
        ("Pooling and attention", [pooling(results), table(results, tables.pooling)]),
        ("Learning rate of pretraining", [table(results, tables.pretraining_sweep)]),
        ("Learning rate of fine-tuning", [sweep(results), table(results, tables.sweep)]),
        *analyses_report.sections(results),
        ("Answers", [table(results, tables.answers)]),
    ]  # fmt: skip
    found = findings(results)
    body = "".join(_section(title, parts, found.get(title)) for title, parts in sections)
    title = f"Which objective is better for what? {card['data']}, {card['size']}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>"
        f"<body><h1>{html.escape(title)}</h1>{body}</body></html>\n"
    )


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
    """The accuracy over each of the four budgets, half-way and at the end."""
    labels, points = results["axes"]["labels"], results["axes"]["points"]

    def panel(axis: str) -> str:
        """One budget."""

        def paint(axes) -> None:
            """A point a seed, and a line through their means."""
            for arm in results["arms"]:
                of_arm = [p for p in points if p["arm"] == arm]
                x, y = [p[axis] for p in of_arm], [100 * p["accuracy"] for p in of_arm]
                axes.plot(x, y, "o", ms=3, alpha=0.5, color=colour(results, arm))
                means = summary.mean_stages(points, arm, axis)
                axes.plot([m[0] for m in means], [100 * m[1] for m in means], "o-", ms=5, lw=1.2,
                          label=arm, color=colour(results, arm))  # fmt: skip
            axes.set(xlabel=f"{axis} of pretraining", ylabel=f"test accuracy, {labels:,} labels, %")
            axes.locator_params(axis="x", nbins=5)  # more numbers would run into each other
            axes.legend(fontsize=8, frameon=False)

        return draw(paint, f"by {axis}")

    return [panel(axis) for axis in summary.AXES]


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


def scratch_needs(results: dict) -> list[str]:
    """How many labels pretraining saves; nothing where there is no such comparison yet."""
    if not results["label_curve"]["labels_saved"]:
        return []
    title = "<h3>Labels that scratch needs to be as good</h3>"
    return [title, table(results, tables.labels_saved)]


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
        axes.set(xlabel="test accuracy, %")

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
    return html_table(
        [["", ""], *([key.replace("_", " "), _number(value)] for key, value in shown.items())]
    )


def _section(title: str, parts: list[str], finding: str | None) -> str:
    figures = "".join(part for part in parts if part.startswith("<figure"))
    rest = "".join(part for part in parts if not part.startswith("<figure"))
    question = f'<p class="question">{QUESTIONS[title]}</p>' if title in QUESTIONS else ""
    answer = f'<p class="finding">{html.escape(finding)}</p>' if finding else ""
    figures = f'<div class="figures">{figures}</div>' if figures else ""
    return f"<h2>{html.escape(title)}</h2>{question}{answer}{figures}{rest}"


def _number(value) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
