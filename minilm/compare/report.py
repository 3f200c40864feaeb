"""What came out, for people: `report.html`, drawn from the results of the jobs and nothing else.

What is computed stands here, what is said about it in `template.html`.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from minilm import __version__
from minilm.compare.experiment import Experiment
from minilm.compare.plan import BAG, BUDGETS, LEVEL, declared
from minilm.compare.statistics import estimates, over_seeds, verdicts
from minilm.runs.durable import write_file
from minilm.view import charts
from minilm.view.pages import text_of

COLOURS = {"causal": 0, "masked": 1, "hybrid": 2, "scratch": 3, BAG: 7}


def write(experiment: Experiment) -> None:
    """Draw the report, and print its first sentences."""
    from jinja2 import Environment, FileSystemLoader
    from markupsafe import Markup

    files, path = FileSystemLoader(Path(__file__).parent), experiment.folder / "report.html"
    escaping = Environment(autoescape=True, loader=files, trim_blocks=True, lstrip_blocks=True)
    page = escaping.get_template("template.html").render(Findings(experiment).context(Markup))
    write_file(path, page.encode("utf-8", "replace"))
    answer = page.partition("</h1>")[2].partition("<h2>")[0].strip().split("</p>")
    print("\n".join(Markup(line).striptags() for line in answer) + f"the report: {path}")


class Findings:
    """The tables of a comparison, the verdicts, and what is drawn of them."""

    def __init__(self, experiment: Experiment):
        self.experiment, self.options, self.plan = experiment, experiment.options, experiment.plan
        self.arms = {each.name: each for each in experiment.arms}
        self.of = {name: [experiment.measure(each, seed) for seed in experiment.seeds]
                   for name, each in self.arms.items()}  # fmt: skip
        self.bag = {BAG: [experiment.baseline(seed) for seed in experiment.seeds]}
        others = (name for name in self.arms if name not in COLOURS)
        self.colour = COLOURS | {name: 4 + i % 3 for i, name in enumerate(others)}
        self.ways = {f"{n}, read as {how}": np.array([one["swapped"][how] for one in ones])
                     for n, ones in self.of.items() for how in self.arms[n].reads}  # fmt: skip
        first = {n: self.ways[f"{n}, read as {each.reads[0]}"] for n, each in self.arms.items()}
        self.tables = {
            "swapped": {**first, BAG: np.array([self.bag[BAG][0]["swapped"]])},
            "labels": self.per_text(lambda run: run["right"]),
        }  # (S, N); of the bag of tokens at swapped neighbours (1, N)
        self.verdicts = verdicts(self.tables, declared(self.options.arms), LEVEL)
        self.levels = {outcome: estimates(table) for outcome, table in self.tables.items()}

    def per_text(self, value: Callable, of: dict | None = None) -> dict[str, np.ndarray]:
        """{arm: (S, N)} of a value per text, the mean over the fine-tunings of a pretraining."""
        mean = lambda one: np.mean([value(run) for run in one["labels"]], axis=0)
        return {name: np.stack(list(map(mean, ones)))
                for name, ones in (of or self.of | self.bag).items()}  # fmt: skip

    def rows(self, found: dict, least: float = 0.0, notes: dict | None = None) -> list[charts.Row]:
        """Rows of `charts.intervals`, in per cent from `least` to 100, of estimates. A name may go
        on after a comma."""
        clip = lambda ends: ends and tuple(np.clip(100 * np.array(ends), least, 100).tolist())
        return [charts.Row(name, 100 * e.mean, clip(e.interval),
                           self.colour.get(name.split(",")[0], 7), (notes or {}).get(name, ""))
                for name, e in found.items()]  # fmt: skip

    def differences(self, outcome: str) -> list[charts.Row]:
        """Rows of the declared comparisons."""
        found, notes = {}, {}
        for v in (v for v in self.verdicts if v.outcome == outcome):
            name = f"{v.a}, less {v.b}"
            found[name] = v.estimate
            notes[name] = {None: "no verdict", True: "real", False: "undecided"}[v.real]
            if v.real is not None:
                small = v.corrected < 0.001
                notes[name] += ", p < 0.001" if small else f", p = {v.corrected:.2g}"
        return self.rows(found, -100.0, notes)

    def lines(self, points: Callable, scale: float = 1.0, of: dict | None = None) -> list:
        """Lines of `charts.curves` of the arms that have points, [(x, y)] of one pretraining: the
        means over the seeds. scale 100: per cent."""
        lines = []
        for name, ones in (of or self.of).items():
            at = []
            for pairs in zip(*map(points, ones), strict=True):
                x, e = np.mean([x for x, _ in pairs]), over_seeds([y for _, y in pairs])
                ends = [b and scale * b for b in e.interval or (None, None)]
                at.append((x, scale * e.mean, *ends))
            if at:
                lines.append(charts.Line(name, at, self.colour.get(name, 7)))
        return lines

    def context(self, markup) -> dict:
        """All that the template shows. markup: marks what charts.py has escaped."""
        n, budget, plan = self.options.labels, self.options.budget, self.plan

        def along(value: str, scale: float = 1.0) -> list[charts.Line]:
            """A value along the pretrainings that have it."""
            curve = lambda one: one.get("pretraining", {"curve": ()})["curve"]
            points = lambda one: [(p[budget], p[value]) for p in curve(one) if value in p]
            return self.lines(points, scale)

        def by_labels(one: dict) -> list[tuple]:
            bag = {"layers": [one["labels"][0]["right"]], "sizes": one.get("sizes")}
            frozen = one.get("frozen", bag)
            right = {n: frozen["layers"][-1], **frozen["sizes"]}
            return sorted((int(size), np.mean(values)) for size, values in right.items())

        by_layer = lambda one: [(i, np.mean(r)) for i, r in enumerate(one["frozen"]["layers"])]
        far = lambda how: (
            lambda one: list(enumerate(one["inside"]["distance"].get(how, ())[:-1], 1))
        )
        ways = ("causal", "masked")
        rows = {outcome: self.rows(levels) for outcome, levels in self.levels.items()}
        rows |= {f"{outcome} differences": self.differences(outcome) for outcome in self.levels}
        sure = self.per_text(lambda run: np.subtract(run["confidence"], run["right"]))
        rows |= {
            "ways": self.rows(estimates(self.ways)),
            "sure": self.rows(estimates(sure), -100.0),
        }
        first = {name: ones[0] for name, ones in self.of.items()}
        if "her_minus_his" in next(iter(first.values()))["labels"][0]:
            changes = self.per_text(lambda run: run["her_minus_his"], self.of)
            rows["fairness"] = self.rows(estimates(changes), -100.0)
        kinds = np.array(plan["grammar"])
        grammar = {}
        for kind in dict.fromkeys(kinds.tolist()):
            right = {name: np.array([one["grammar"] for one in ones])[:, kinds == kind]
                     for name, ones in self.of.items()}  # fmt: skip
            grammar[kind] = self.rows(estimates(right))

        def dots(title: str, note: str, rows: list, mark: float, unit: str = " %") -> str:
            """`charts.intervals` on a scale of round numbers that holds all."""
            ends = [mark] + [b for row in rows for b in (row.interval or (row.value,))]
            low, high = 10 * float(np.floor(min(ends) / 10)), 10 * float(np.ceil(max(ends) / 10))
            return markup(charts.intervals(title, note, rows, low, max(high, low + 10), mark, unit))

        def removed(name: str) -> str:
            """The tokens of a text, shaded by what deleting them does."""
            found = first[name]["labels"][0]["deletion"]
            most = max(map(abs, found["falls"]), default=0) or 1.0
            pairs = zip(found["tokens"], found["falls"], strict=True)
            return markup(charts.tokens([(t, fall / most, f"{fall:+.3f}") for t, fall in pairs]))

        trained = [name for name, each in self.arms.items() if each.objective]
        return dict(
            arms=self.arms, trained=trained, colour=self.colour, bag=BAG, level=LEVEL,
            options=self.options, plan=plan, seeds=list(self.experiment.seeds), first=first,
            levels=self.levels, verdicts=self.verdicts, rows=rows, grammar=grammar, dots=dots,
            curves=lambda *a, **more: markup(charts.curves(*a, **more)), removed=removed,
            learning=along("swapped", 100), by_layer=self.lines(by_layer, 100),
            by_labels=self.lines(by_labels, 100, self.of | self.bag),
            style=markup(text_of("style.css")),
            distance={how: self.lines(far(how)) for how in ways},
            losses={how: along(f"{how}_loss") for how in ways},
            spent={name: {key: over_seeds([one["pretraining"][key] for one in self.of[name]])
                          for key in BUDGETS} for name in trained},
            number=charts.number, version=__version__,
        )  # fmt: skip
