"""What came out, for people: `report.html`, drawn from the results of the jobs and nothing else.

What is computed stands here, what is said about it in `template.html`.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from minilm import __version__
from minilm.compare.experiment import Experiment
from minilm.compare.plan import BAG, LEVEL, declared
from minilm.compare.statistics import NEEDS, Estimate, Verdict, estimates, over_seeds, verdicts
from minilm.config import UserError
from minilm.runs.durable import write_file
from minilm.view import charts
from minilm.view.pages import text_of

COLOURS = {"causal": 0, "masked": 1, "hybrid": 2, "scratch": 3, BAG: 7}
CURRENCIES = {"tokens": "tokens read", "targets": "targets predicted", "flops": "FLOPs",
              "seconds": "seconds"}  # fmt: skip


def environment():
    """Where the template is rendered: whatever it is given is escaped. Raises UserError where
    jinja2 is missing."""
    try:
        import jinja2
    except ImportError:
        raise UserError(NEEDS) from None
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    return jinja2.Environment(autoescape=True, loader=loader, trim_blocks=True, lstrip_blocks=True)


def write(experiment: Experiment) -> None:
    """Draw the report, and print its first sentences."""
    from markupsafe import Markup

    template, found = environment().get_template("template.html"), Findings(experiment)
    context = template.new_context(found.context(Markup))
    path = experiment.folder / "report.html"
    write_file(path, "".join(template.root_render_func(context)).encode("utf-8", "replace"))
    print(Markup("".join(template.blocks["answer"](context))).striptags())
    print(f"the report: {path}")


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
        self.reads = {name: each.reads for name, each in self.arms.items()}
        self.tables = {
            "swapped": {name: self.swapped(name, reads[0]) for name, reads in self.reads.items()}
            | {BAG: np.array([self.bag[0]["swapped"]])},
            "labels": self.over_runs(lambda run: run["right"], {**self.of, BAG: self.bag}),
        }  # (S, N); of the bag of tokens at swapped neighbours (1, N)
        self.verdicts = verdicts(self.tables, declared(self.options.arms), LEVEL)
        self.levels = {outcome: self.estimated(table) for outcome, table in self.tables.items()}

    def swapped(self, name: str, how: str) -> np.ndarray:
        """Right or not by one way of reading, (S, N)."""
        return np.array([one["swapped"][how] for one in self.of[name]])

    def over_runs(self, value: Callable, of: dict | None = None) -> dict[str, np.ndarray]:
        """{arm: (S, N)} of a value per text, the mean over the fine-tunings of a pretraining."""
        return {
            name: np.stack([np.mean([value(run) for run in one["labels"]], 0) for one in ones])
            for name, ones in (of or self.of).items()
        }

    def estimated(self, tables: dict[str, np.ndarray]) -> dict[str, Estimate]:
        """The mean of each table with its interval; one without seeds is known exactly."""
        seeded = {name: table for name, table in tables.items() if len(table) == len(self.bag)}
        found = dict(zip(seeded, estimates(list(seeded.values()), len(seeded)), strict=True))
        if len(self.bag) == 1:
            found.pop(BAG, None)
        return {name: found.get(name) or Estimate(float(table.mean()), None, None)
                for name, table in tables.items()}  # fmt: skip

    def rows(self, levels: dict[str, Estimate], note: Callable = lambda name: "") -> list:
        """Rows of `charts.intervals`, in per cent. A name may go on after a comma."""
        return [
            charts.Row(name, 100 * e.mean, e.interval and tuple(100 * b for b in e.interval),
                       self.colour.get(name.split(",")[0], 7), note(name))
            for name, e in levels.items()
        ]  # fmt: skip

    def differences(self, outcome: str) -> list:
        """Rows of the declared comparisons."""

        def words(v: Verdict) -> str:
            """The verdict."""
            known = {None: "no verdict", True: "real", False: "undecided"}[v.real]
            return known if v.corrected is None else f"{known}, p = {v.corrected:.2g}"

        asked = {f"{v.a}, less {v.b}": v for v in self.verdicts if v.outcome == outcome}
        return self.rows({k: v.estimate for k, v in asked.items()}, lambda k: words(asked[k]))

    def lines(self, points: dict, scale: float = 100.0) -> list:
        """Lines of `charts.curves` from {arm: [(x, [one value a seed])]}."""
        drawn = []
        for name, of_name in points.items():
            found = [(x, over_seeds(values)) for x, values in sorted(of_name)]
            bars = [tuple(scale * b for b in e.interval or ()) or (None, None) for _, e in found]
            at = [(x, scale * e.mean, *bar) for (x, e), bar in zip(found, bars, strict=True)]
            drawn.append(charts.Line(name, at, self.colour.get(name, 7)))
        return drawn

    def along(self, value: str) -> dict:
        """{arm: [(budget, one value a seed)]} along the pretrainings of the arms that have it."""
        curves = {name: [one["pretraining"]["curve"] for one in self.of[name]]
                  for name in self.trained}  # fmt: skip
        x = self.options.budget
        return {
            name: [(np.mean([p[x] for p in at]), [p[value] for p in at])
                   for at in zip(*of_name, strict=True)]
            for name, of_name in curves.items() if value in of_name[0][0]
        }  # fmt: skip

    def frozen(self) -> tuple[dict, dict]:
        """The accuracy of frozen features, by the number of labels (beside the bag of tokens) and
        by layer: {name: [(x, [one a seed])]}."""
        layers = {name: [one["frozen"]["layers"] for one in ones] for name, ones in self.of.items()}
        by_layer = {name: [(i, [np.mean(one[i]) for one in ones]) for i in range(len(ones[0]))]
                    for name, ones in layers.items()}  # fmt: skip
        last = {name: [np.mean(one[-1]) for one in ones] for name, ones in layers.items()}
        last[BAG] = [np.mean(one["labels"][0]["right"]) for one in self.bag]
        sizes = {name: [one["frozen"]["sizes"] for one in ones] for name, ones in self.of.items()}
        sizes[BAG] = [one["sizes"] for one in self.bag]
        by_labels = {
            name: [(self.options.labels, last[name])]
            + [(int(n), [np.mean(one[n]) for one in ones]) for n in ones[0]]
            for name, ones in sizes.items()
        }
        return by_labels, by_layer

    def context(self, markup) -> dict:
        """All that the template shows. markup: marks what charts.py has escaped."""
        first, plan = {name: ones[0] for name, ones in self.of.items()}, self.plan
        by_labels, by_layer = self.frozen()
        distance = {how: {name: [(i + 1, [one["inside"]["distance"][how][i] for one in ones])
                                 for i in range(plan["model"]["n_layers"])]
                          for name, ones in self.of.items() if how in self.reads[name]}
                    for how in ("causal", "masked")}  # fmt: skip
        ways = {f"{name}, read as {how}": self.swapped(name, how)
                for name, reads in self.reads.items() for how in reads}  # fmt: skip
        sure = self.over_runs(lambda run: np.subtract(run["confidence"], run["right"]),
                              {**self.of, BAG: self.bag})  # fmt: skip
        rows = {outcome: self.rows(levels) for outcome, levels in self.levels.items()}
        rows |= {f"{outcome} differences": self.differences(outcome) for outcome in self.levels}
        rows |= {"ways": self.rows(self.estimated(ways)), "sure": self.rows(self.estimated(sure))}
        if "her_minus_his" in next(iter(first.values()))["labels"][0]:
            changes = self.over_runs(lambda run: run["her_minus_his"])
            rows["fairness"] = self.rows(self.estimated(changes))
        grammar = {}
        for name in dict.fromkeys(plan["grammar"]):
            asked = np.array(plan["grammar"]) == name
            right = {arm: np.array([one["grammar"]["right"] for one in ones])[:, asked]
                     for arm, ones in self.of.items()}  # fmt: skip
            grammar[name] = self.rows(self.estimated(right))

        def dots(title: str, note: str, rows: list, mark: float) -> str:
            """`charts.intervals` on a scale of round numbers that holds all."""
            ends = [mark] + [b for row in rows for b in (row.interval or (row.value,))]
            low, high = 10 * np.floor(min(ends) / 10), 10 * np.ceil(max(ends) / 10)
            high = max(high, low + 10)
            return markup(charts.intervals(title, note, rows, float(low), float(high), mark, " %"))

        def removed(name: str) -> str:
            """The tokens of a text, shaded by what deleting them does."""
            found = first[name]["labels"][0]["deletion"]
            most = max(map(abs, found["falls"]), default=0) or 1.0
            pairs = zip(found["tokens"], found["falls"], strict=True)
            return markup(charts.tokens([(t, fall / most, f"{fall:+.3f}") for t, fall in pairs]))

        return dict(
            arms=self.arms, trained=self.trained, colour=self.colour, bag=BAG, level=LEVEL,
            options=self.options, plan=plan, seeds=list(self.experiment.seeds), first=first,
            levels=self.levels, verdicts=self.verdicts, rows=rows, grammar=grammar, dots=dots,
            curves=lambda *a, **more: markup(charts.curves(*a, **more)), removed=removed,
            learning=self.lines(self.along("swapped")), by_labels=self.lines(by_labels),
            by_layer=self.lines(by_layer), number=charts.number, version=__version__,
            distance={how: self.lines(points, 1.0) for how, points in distance.items()},
            losses={how: self.lines(self.along(f"{how}_loss"), 1.0) for how in distance},
            spent={name: {c: over_seeds([one["pretraining"][c] for one in self.of[name]])
                          for c in CURRENCIES} for name in self.trained},
            currencies=CURRENCIES, style=markup(text_of("style.css")),
        )  # fmt: skip
