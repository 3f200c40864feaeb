"""What came out, for people: `report.html`, drawn from the results of the jobs and nothing else.

What is computed stands here, what is said about it in `template.html`.
"""

from pathlib import Path

import numpy as np

from minilm import __version__
from minilm.compare.labels import SENTIMENT
from minilm.compare.plan import BAG, BUDGETS, LEVEL, declared
from minilm.compare.statistics import Verdict, estimates, over_seeds, verdicts
from minilm.io.durable import write_file
from minilm.view import charts
from minilm.view.pages import text_of

COLOURS = {"causal": 0, "masked": 1, "hybrid": 2, "scratch": 3, BAG: 7}


def write(experiment) -> None:
    """Draw the report, and print its first sentences."""
    from jinja2 import Environment, FileSystemLoader
    from markupsafe import Markup

    files, path = FileSystemLoader(Path(__file__).parent), experiment.folder / "report.html"
    escaping = Environment(autoescape=True, loader=files, trim_blocks=True, lstrip_blocks=True)
    page = escaping.get_template("template.html").render(Findings(experiment).context())
    write_file(path, page.encode("utf-8", "replace"))
    answer = page.partition("</h1>")[2].partition("<h2>")[0].strip().split("</p>")
    print("\n".join(Markup(line).striptags() for line in answer) + f"the report: {path}")


class Findings:
    """The tables of a comparison, the verdicts, and what is drawn of them."""

    def __init__(self, experiment):
        self.options, self.plan, self.seeds = experiment.options, experiment.plan, experiment.seeds
        self.arms = {each.name: each for each in experiment.arms}
        self.trained = [name for name, each in self.arms.items() if each.objective]
        others = (name for name in self.arms if name not in COLOURS)
        self.colour = COLOURS | {name: 4 + i % 3 for i, name in enumerate(others)}
        self.of = {name: [experiment.measure(each, seed) for seed in self.seeds]
                   for name, each in self.arms.items()}  # fmt: skip
        self.all = self.of | {BAG: [experiment.baseline(seed) for seed in self.seeds]}
        first_way = lambda one: next(iter(one["swapped"].values()))
        self.tables = {"swapped": table(self.all, first_way),  # {arm: (S, N)}
                       "labels": over_runs(self.all, lambda run: run["right"])}  # fmt: skip
        self.tables["swapped"][BAG] = self.tables["swapped"][BAG][:1]  # its guesses have no seeds
        self.verdicts = verdicts(self.tables, declared(self.options.arms), LEVEL)
        self.levels = {outcome: estimates(found) for outcome, found in self.tables.items()}

    def dots(self, title: str, note: str, found: dict, mark: float, unit: str = " %") -> str:
        """`charts.intervals` in per cent, of shares or (marked at 0) differences, on a scale of
        round numbers that holds all. found: {name: Estimate or Verdict}; a name may go on after a
        comma."""
        rows, ends, least = [], [mark], -100 if mark == 0 else 0
        for name, e in found.items():
            words, e = (str(e), e.estimate) if isinstance(e, Verdict) else ("", e)
            interval = e.interval and np.clip(100 * np.array(e.interval), least, 100).tolist()
            colour = self.colour.get(name.split(",")[0], 7)
            rows.append(charts.Row(name, 100 * e.mean, interval, colour, words))
            ends += interval or [100 * e.mean]
        low, high = 10 * float(np.floor(min(ends) / 10)), 10 * float(np.ceil(max(ends) / 10))
        return charts.intervals(title, note, rows, low, max(high, low + 10), mark, unit)

    def lines(self, points, scale: float = 1.0, of: dict | None = None) -> list:
        """Lines of `charts.curves` for the arms that have points, [(x, y)] of one pretraining: the
        means over the seeds. scale 100: per cent."""
        lines = []
        for name, ones in (of or self.of).items():
            at = []
            for pairs in zip(*map(points, ones), strict=True):  # a place on x, for each seed
                x, e = np.mean([x for x, _ in pairs]), over_seeds([y for _, y in pairs])
                ends = [scale * b for b in e.interval or ()]
                at.append((x, scale * e.mean, *ends))
            if at:
                lines.append(charts.Line(name, at, self.colour.get(name, 7)))
        return lines

    def removed(self, name: str) -> str:
        """The tokens of a text, shaded by what deleting them does."""
        found = self.of[name][0]["labels"][0]["deletion"]
        most = max(map(abs, found["falls"]), default=0) or 1.0
        pairs = zip(found["tokens"], found["falls"], strict=True)
        return charts.tokens([(t, fall / most, f"{fall:+.3f}") for t, fall in pairs])

    def context(self) -> dict:
        """All that the template shows."""
        n, budget = self.options.labels, self.options.budget
        first = {name: ones[0] for name, ones in self.of.items()}
        differences: dict = {outcome: {} for outcome in self.tables}
        for v in self.verdicts:
            differences[v.outcome][f"{v.a}, less {v.b}"] = v
        ways = {f"{name}, read as {way}": np.array([one["swapped"][way] for one in ones])
                for name, ones in self.of.items() for way in self.arms[name].reads}  # fmt: skip
        sure = over_runs(self.all, lambda run: np.subtract(run["confidence"], run["right"]))
        fairness, grammar, kinds = {}, {}, np.array(self.plan["grammar"])
        if set(self.plan["classes"]) == SENTIMENT:
            fairness = over_runs(self.of, lambda run: run["her_minus_his"])
        for kind in dict.fromkeys(self.plan["grammar"]):
            right = table(self.of, lambda one, k=kind: np.array(one["grammar"])[kinds == k])
            grammar[kind] = estimates(right)

        def by_labels(one: dict) -> list[tuple[int, float]]:
            """The share right by the last layer's features, for each number of labels."""
            right = {n: one["frozen"]["layers"][-1], **one["frozen"]["sizes"]}
            return sorted((int(n), np.mean(values)) for n, values in right.items())

        curve = lambda one: one["pretraining"]["curve"] if "pretraining" in one else []
        along = lambda value: lambda one: [(p[budget], p[value]) for p in curve(one) if value in p]
        by_layer = lambda one: enumerate(map(np.mean, one["frozen"]["layers"]))
        far = lambda way: lambda one: enumerate(one["inside"]["distance"].get(way, ())[:-1], 1)
        return vars(self) | dict(
            bag=BAG, level=LEVEL, first=first, differences=differences, ways=estimates(ways),
            sure=estimates(sure), fairness=estimates(fairness), grammar=grammar, dots=self.dots,
            curves=charts.curves, removed=self.removed, number=charts.number,
            learning=self.lines(along("swapped"), 100), by_layer=self.lines(by_layer, 100),
            by_labels=self.lines(by_labels, 100, self.all),
            distance={way: self.lines(far(way)) for way in ("causal", "masked")},
            losses={way: self.lines(along(f"{way}_loss")) for way in ("causal", "masked")},
            spent={name: {key: over_seeds([one["pretraining"][key] for one in self.of[name]])
                          for key in BUDGETS} for name in self.trained},
            style=text_of("style.css"), version=__version__,
        )  # fmt: skip


def table(of: dict, value) -> dict[str, np.ndarray]:
    """{arm: (S, ...)} of what value(one) takes from one pretraining."""
    return {name: np.array([value(one) for one in ones]) for name, ones in of.items()}


def over_runs(of: dict, value) -> dict[str, np.ndarray]:
    """{arm: (S, N)} of a value per text, the mean over the fine-tunings of a pretraining."""
    return table(of, lambda one: np.mean([value(run) for run in one["labels"]], axis=0))
