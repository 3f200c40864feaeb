"""What came out, for people: `report.html`, drawn from the results of the jobs and nothing else.

What is computed stands here, what is said about it in `template.html`.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from minilm import __version__
from minilm.compare.experiment import Experiment
from minilm.compare.plan import BAG, BUDGETS, LEVEL, declared
from minilm.compare.statistics import Estimate, Verdict, estimates, over_seeds, verdicts
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
    template = escaping.get_template("template.html")
    context = template.new_context(Findings(experiment).context(Markup))
    write_file(path, "".join(template.root_render_func(context)).encode("utf-8", "replace"))
    answer = "".join(template.blocks["answer"](context)).strip().split("</p>")
    print("\n".join(Markup(line).striptags() for line in answer) + f"the report: {path}")


class Findings:
    """The tables of a comparison, the verdicts, and what is drawn of them."""

    def __init__(self, experiment: Experiment):
        self.experiment, self.options, self.plan = experiment, experiment.options, experiment.plan
        self.arms = {each.name: each for each in experiment.arms}
        self.of = {name: [experiment.measure(each, seed) for seed in experiment.seeds]
                   for name, each in self.arms.items()}  # fmt: skip
        self.bag = [experiment.baseline(seed) for seed in experiment.seeds]
        self.trained = [name for name, each in self.arms.items() if each.objective]
        others = (name for name in self.arms if name not in COLOURS)
        self.colour = COLOURS | {name: 4 + i % 3 for i, name in enumerate(others)}
        self.ways = {f"{n}, read as {how}": np.array([one["swapped"][how] for one in ones])
                     for n, ones in self.of.items() for how in self.arms[n].reads}  # fmt: skip
        first = {n: self.ways[f"{n}, read as {a.reads[0]}"] for n, a in self.arms.items()}
        self.tables = {
            "swapped": {**first, BAG: np.array([self.bag[0]["swapped"]])},
            "labels": self.over_runs(lambda run: run["right"], {**self.of, BAG: self.bag}),
        }  # (S, N); of the bag of tokens at swapped neighbours (1, N)
        self.verdicts = verdicts(self.tables, declared(self.options.arms), LEVEL)
        self.levels = {outcome: self.estimated(table) for outcome, table in self.tables.items()}

    def each(self, value: Callable) -> dict[str, list]:
        """{arm: [value(what was measured), one a seed]}."""
        return {name: [value(one) for one in ones] for name, ones in self.of.items()}

    def over_runs(self, value: Callable, of: dict) -> dict[str, np.ndarray]:
        """{arm: (S, N)} of a value per text, the mean over the fine-tunings of a pretraining."""
        mean = lambda one: np.mean([value(run) for run in one["labels"]], axis=0)
        return {name: np.stack([mean(one) for one in ones]) for name, ones in of.items()}

    def estimated(self, tables: dict[str, np.ndarray]) -> dict[str, Estimate]:
        """The mean of each table with its interval; one without seeds is known exactly."""
        exact = {n: Estimate(float(table.mean()), None, None) for n, table in tables.items()}
        seeded = {name: table for name, table in tables.items() if len(table) == len(self.bag)}
        found = estimates(list(seeded.values()), len(seeded))
        return exact | dict(zip(seeded, found, strict=True))

    def rows(self, tables: dict, note: Callable = lambda name: "", least: float = 0.0) -> list:
        """Rows of `charts.intervals`, in per cent from `least` to 100, of tables or estimates. A
        name may go on after a comma."""
        if any(isinstance(table, np.ndarray) for table in tables.values()):
            tables = self.estimated(tables)
        clip = lambda ends: ends and tuple(np.clip(100 * np.array(ends), least, 100).tolist())
        return [charts.Row(name, 100 * e.mean, clip(e.interval),
                           self.colour.get(name.split(",")[0], 7), note(name))
                for name, e in tables.items()]  # fmt: skip

    def differences(self, outcome: str) -> list:
        """Rows of the declared comparisons."""

        def words(v: Verdict) -> str:
            known = {None: "no verdict", True: "real", False: "undecided"}[v.real]
            p = "" if v.corrected is None else f", p = {v.corrected:.2g}"
            return known + (", p < 0.001" if p and v.corrected < 0.001 else p)

        asked = {f"{v.a}, less {v.b}": v for v in self.verdicts if v.outcome == outcome}
        shown = {name: v.estimate for name, v in asked.items()}
        return self.rows(shown, lambda name: words(asked[name]), least=-100.0)

    def lines(self, points: dict, scale: float = 1.0) -> list:
        """Lines of `charts.curves` from {arm: [(x, [one value a seed])]}; scale 100: per cent."""
        lines = []
        for name, of_name in points.items():
            found = [(x, over_seeds(values)) for x, values in sorted(of_name)]
            at = [(x, scale * e.mean, *(b and scale * b for b in e.interval or (None, None)))
                  for x, e in found]  # fmt: skip
            lines.append(charts.Line(name, at, self.colour.get(name, 7)))
        return lines

    def along(self, value: str) -> dict:
        """{arm: [(budget, one value a seed)]} along the pretrainings of the arms that have it."""
        found, x = {}, self.options.budget
        for name in self.trained:
            places = list(zip(*(one["pretraining"]["curve"] for one in self.of[name]), strict=True))
            if value in places[0][0]:
                found[name] = [(np.mean([p[x] for p in ps]), [p[value] for p in ps])
                               for ps in places]  # fmt: skip
        return found

    def context(self, markup) -> dict:
        """All that the template shows. markup: marks what charts.py has escaped."""
        first, n = {name: ones[0] for name, ones in self.of.items()}, self.options.labels
        layers = self.each(lambda one: [np.mean(right) for right in one["frozen"]["layers"]])
        sizes = self.each(lambda one: {n: one["frozen"]["layers"][-1], **one["frozen"]["sizes"]})
        sizes[BAG] = [{n: one["labels"][0]["right"], **one["sizes"]} for one in self.bag]
        by_labels = {name: [(int(k), [np.mean(one[k]) for one in ones]) for k in ones[0]]
                     for name, ones in sizes.items()}  # fmt: skip
        by_layer = {name: list(enumerate(zip(*ones, strict=True))) for name, ones in layers.items()}
        far, depth = self.each(lambda one: one["inside"]["distance"]), len(by_layer[min(by_layer)])
        distance = {how: {name: [(i, [one[how][i - 1] for one in ones]) for i in range(1, depth)]
                          for name, ones in far.items() if how in ones[0]}
                    for how in ("causal", "masked")}  # fmt: skip
        sure = self.over_runs(lambda run: np.subtract(run["confidence"], run["right"]),
                              {**self.of, BAG: self.bag})  # fmt: skip
        rows = {outcome: self.rows(levels) for outcome, levels in self.levels.items()}
        rows |= {f"{outcome} differences": self.differences(outcome) for outcome in self.levels}
        rows |= {"ways": self.rows(self.ways), "sure": self.rows(sure, least=-100.0)}
        if "her_minus_his" in next(iter(first.values()))["labels"][0]:
            changes = self.over_runs(lambda run: run["her_minus_his"], self.of)
            rows["fairness"] = self.rows(changes, least=-100.0)
        kinds = np.array(self.plan["grammar"])
        right = self.each(lambda one: one["grammar"]) if len(kinds) else {}
        grammar = {kind: self.rows({n: np.array(r)[:, kinds == kind] for n, r in right.items()})
                   for kind in dict.fromkeys(kinds.tolist())}  # fmt: skip

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

        return dict(
            arms=self.arms, trained=self.trained, colour=self.colour, bag=BAG, level=LEVEL,
            options=self.options, plan=self.plan, seeds=list(self.experiment.seeds), first=first,
            levels=self.levels, verdicts=self.verdicts, rows=rows, grammar=grammar, dots=dots,
            curves=lambda *a, **more: markup(charts.curves(*a, **more)), removed=removed,
            learning=self.lines(self.along("swapped"), 100), by_labels=self.lines(by_labels, 100),
            by_layer=self.lines(by_layer, 100), style=markup(text_of("style.css")),
            distance={how: self.lines(points) for how, points in distance.items()},
            losses={how: self.lines(self.along(f"{how}_loss")) for how in distance},
            spent={n: {key: over_seeds([one["pretraining"][key] for one in self.of[n]])
                       for key in BUDGETS} for n in self.trained},
            number=charts.number, version=__version__,
        )  # fmt: skip
