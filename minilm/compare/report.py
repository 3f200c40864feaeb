"""What came out, for people: `report.html`, drawn from what the jobs left and nothing else; and for
programs: `findings.json`, and `outcomes.csv`, a line for each seed and text.

What is computed stands here, what is said about it in `template.html`.
"""

import csv
import io
import json

import numpy as np

from minilm import __version__
from minilm.compare.plan import BAG, LEVEL, SCRATCH, Question
from minilm.compare.statistics import Estimate, estimates, verdicts
from minilm.io.durable import write_file
from minilm.view import charts
from minilm.view.pages import text_of

COLOURS = {"causal": 0, "masked": 1, "hybrid": 2, SCRATCH: 3, BAG: 7}
SPENT = {"tokens": "tokens read", "passes": "times the text was read", "targets": "targets",
         "flops": "FLOPs", "seconds": "seconds"}  # fmt: skip


def write(experiment) -> None:
    """Draw the report, and print its first sentences."""
    found, folder = Findings(experiment), experiment.folder
    page = charts.render("compare/template.html", **found.context())
    write_file(folder / "report.html", page.encode("utf-8", "replace"))
    write_file(folder / "findings.json", json.dumps(found.summary(), indent=1).encode())
    write_file(folder / "outcomes.csv", found.rows().encode())
    answer = page.partition("</h1>")[2].partition("<h2>")[0].strip().split("</p>")
    print("\n".join(type(page)(line).striptags() for line in answer))
    print(f"the report: {folder / 'report.html'}; each seed and text: {folder / 'outcomes.csv'}")


class Findings:
    """The tables of a comparison, the verdicts, and what is drawn of them."""

    def __init__(self, experiment):
        self.experiment, self.options, self.plan = experiment, experiment.options, experiment.plan
        self.arms, self.trained, self.seeds = experiment.arms, experiment.trained, experiment.seeds
        others = [name for name in self.arms if name not in COLOURS]
        self.colour = {name: COLOURS.get(name.split("-")[0], 4 + i % 3)
                       for i, name in enumerate(others)} | COLOURS  # fmt: skip
        self.of = {name: [experiment.measure(name, seed) for seed in self.seeds]
                   for name in self.arms}  # fmt: skip
        drawn = [draw for draw in experiment.draws if draw != "tags"]
        right = lambda one, row="these weights": np.mean(
            [one[draw]["right"][row] for draw in drawn], axis=0
        )
        swapped = lambda one: next(iter(one["swapped"].values()))
        pairs = min(len(swapped(one)) for ones in self.of.values() for one in ones)
        bag = [right(one, "a bag of tokens") for one in self.of[self.trained[0]]]
        self.tables = {  # {outcome: {arm: (S, N)}}; the bag's guesses at pairs have no seeds
            "swapped": self.each(lambda one: swapped(one)[:pairs])
            | {BAG: np.full((1, pairs), 0.5)},
            "labels": self.each(right) | {BAG: np.array(bag)},
        }
        questions = [Question(*question) for question in self.plan["questions"]]
        self.verdicts = verdicts(self.tables, {q.name: q.weights for q in questions}, LEVEL)
        self.levels = {outcome: estimates(found) for outcome, found in self.tables.items()}
        self.predictions = [(q.predicted[v.outcome], v) for v in self.verdicts for q in questions
                            if q.name == v.name and v.outcome in q.predicted]  # fmt: skip
        self.tags = {}
        if self.plan["tags"]:
            f1 = self.each(lambda one: one["tags"]["rows"]["these weights"]["f1"])
            self.tags = {name: Estimate(float(a.mean()), (float(a.min()), float(a.max())))
                         for name, a in f1.items()}  # fmt: skip
        self.spent = {name: [spent(one["pretraining"]) for one in self.of[name]]
                      for name in self.trained}  # fmt: skip
        flags = lambda name: self.of[name][0]["pretraining"]["flags"]
        tried = lambda name: experiment.rates(name) if self.options.sweep else {}
        self.rates = {name: (flags(name)["learning_rate"], tried(name)) for name in self.trained}

    def each(self, value) -> dict[str, np.ndarray]:
        """{arm: (S, ...)} of what value(one) takes from one pretraining."""
        return {name: np.array([value(one) for one in ones]) for name, ones in self.of.items()}

    def summary(self) -> dict:
        """All figures, as JSON."""
        by_name = lambda of: {name: e._asdict() for name, e in of.items()}
        return dict(
            version=__version__, plan=self.plan, options=vars(self.options),
            tags=by_name(self.tags),
            levels={outcome: by_name(found) for outcome, found in self.levels.items()},
            verdicts=[v._asdict() | {"estimate": v.estimate._asdict(), "words": str(v)}
                      for v in self.verdicts],
            predictions=[dict(name=v.name, outcome=v.outcome, why=why, came_true=came_true(v))
                         for why, v in self.predictions],
            spent=self.spent, rates={name: [rate, [*map(list, tried.items())]]
                                     for name, (rate, tried) in self.rates.items()},
        )  # fmt: skip

    def rows(self) -> str:
        """All outcomes as CSV: right is a mean over fine-tunings; a tie of a pair is 0.5."""
        writer = csv.writer(file := io.StringIO(), lineterminator="\n")
        writer.writerow(("outcome", "arm", "seed", "text", "right"))
        for outcome, of in self.tables.items():
            for arm, found in of.items():
                for seed, values in zip(self.seeds, found, strict=False):
                    writer.writerows((outcome, arm, seed, i, v) for i, v in enumerate(values))
        return file.getvalue()

    def dots(self, title: str, note: str, found: dict, mark: float | None, said=None) -> str:
        """`charts.intervals` in per cent of shares or (marked at 0) differences {name: Estimate},
        on a scale of round numbers that holds all; said: {name: what stands beside it}."""
        rows, ends, least = [], [100 * (mark or 0.0)], -100 if mark == 0 else 0
        for name, e in found.items():
            interval = e.interval and np.clip(100 * np.array(e.interval), least, 100).tolist()
            colour = self.colour.get(name.split(",")[0], 7)
            words = (said or {}).get(name, "")
            rows.append(charts.Row(name, 100 * e.mean, interval, colour, words))
            ends += interval or [100 * e.mean]
        low, high = 10 * float(np.floor(min(ends) / 10)), 10 * float(np.ceil(max(ends) / 10))
        unit, mark = " %" * (mark != 0), mark and 100 * mark
        return charts.intervals(title, note, rows, low, max(high, low + 10), mark, unit)

    def curve(self, loss: str) -> list:
        """A line for each arm that has this loss: the means over the seeds, by tokens."""
        lines = []
        for name in self.trained:
            points = [one["pretraining"]["curve"] for one in self.of[name]]
            if loss in points[0][0]:
                mean = lambda key, at: float(np.mean([point[key] for point in at]))
                at = [(mean("tokens", p), mean(loss, p)) for p in zip(*points, strict=True)]
                lines.append(charts.Line(name, at, self.colour[name]))
        return lines

    def context(self) -> dict:
        """All that the template shows."""
        both, first = ("swapped", "labels"), {n: self.of[n][0]["pretraining"] for n in self.trained}
        of = lambda outcome: [v for v in self.verdicts if v.outcome == outcome]
        return vars(self) | dict(
            bag=BAG, level=LEVEL, first=first, version=__version__, style=text_of("style.css"),
            differences={o: {v.name: v.estimate for v in of(o)} for o in both},
            said={o: {v.name: str(v) for v in of(o)} for o in both}, came_true=came_true,
            losses={loss: self.curve(f"{loss}_loss") for loss in ("causal", "masked")},
            dots=self.dots, curves=charts.curves, number=charts.number, currencies=SPENT,
            unigram=first[self.trained[0]]["unigram_entropy"],
        )  # fmt: skip


def came_true(verdict) -> str:
    """Of a difference that was predicted to be above 0."""
    if not verdict.real:
        return "undecided" if verdict.real is False else "no verdict"
    return "came true" if verdict.estimate.mean > 0 else "the opposite is true"


def spent(pretraining: dict) -> dict[str, float]:
    """What one pretraining took."""
    found = {key: pretraining[key] for key in ("tokens", "targets", "seconds")}
    flops = pretraining["flops_per_second"] * pretraining["seconds"]
    return found | {"passes": found["tokens"] / pretraining["train_tokens"], "flops": flops}
