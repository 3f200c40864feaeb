"""From the results of single jobs to what results.json says of them: means, intervals, verdicts.

`finals` and `curve` come as {ARM or baseline: [job results]} and {name: [[job results] a size]}.
"""

import itertools

import numpy as np

from minilm.experiments.compare_config import RATIOS
from minilm.experiments.intervals import compare, labels_needed, row_interval, seed_interval

ENOUGH = 0.95  # of the accuracy with all labels
AXES = ("tokens", "targets", "flops", "seconds")


def label_curve(sizes: list[int], curve: dict[str, list[list[dict]]]) -> dict:
    """The "label_curve" of results.json."""
    accuracy = {
        name: [[job["accuracy"] for job in jobs] for jobs in by_size]
        for name, by_size in curve.items()
    }
    mean = {name: [float(np.mean(a)) for a in by_size] for name, by_size in accuracy.items()}
    bounds = {name: [seed_interval(a) for a in by_size] for name, by_size in accuracy.items()}
    return {
        "sizes": sizes,
        "draws": [max(len(by_size[i]) for by_size in accuracy.values()) for i in range(len(sizes))],
        "accuracy": accuracy,
        "mean": mean,
        "low": {name: [b and b[0] for b in by_size] for name, by_size in bounds.items()},
        "high": {name: [b and b[1] for b in by_size] for name, by_size in bounds.items()},
    }


def labels_saved(curve: dict, arms: list[str]) -> dict:
    """For each arm but scratch and each size: how many labels scratch needs to be as good."""
    if "scratch" not in curve["mean"]:
        return {}
    sizes, scratch = curve["sizes"], curve["mean"]["scratch"]
    saved = {}
    for arm in arms:
        if arm != "scratch":
            saved[arm] = []
            for labels, accuracy in zip(sizes, curve["mean"][arm], strict=True):
                needs = labels_needed(sizes, scratch, accuracy)
                saved[arm].append(
                    {"labels": labels, "scratch_needs": needs, "saved": needs and needs - labels}
                )
    return saved


def final_test(labels: int, truth: list[int], finals: dict[str, list[dict]]) -> dict:
    """The "finals" of results.json."""
    right = right_or_not(truth, finals)
    keys = ("seed", "accuracy", "macro_f1", "predicted")
    return {
        "labels": labels,
        "rows": len(truth),
        "truth": truth,
        "runs": {
            name: [{k: job[k] for k in keys} for job in jobs] for name, jobs in finals.items()
        },
        "mean": {name: float(r.mean()) for name, r in right.items()},
        "row_interval": {name: row_interval(r.mean(0)) for name, r in right.items()},
        "seed_interval": {
            name: seed_interval(list(r.mean(1).astype(float))) for name, r in right.items()
        },
    }


def right_or_not(truth: list[int], jobs: dict[str, list[dict]]) -> dict[str, np.ndarray]:
    """For each name (seeds, rows) bool: was the text's label found?"""
    return {
        name: np.array([np.array(job["predicted"]) == np.array(truth) for job in done])
        for name, done in jobs.items()
    }


def verdicts(truth: list[int], finals: dict[str, list[dict]]) -> list[dict]:
    """Every pair once: the "verdicts" of results.json."""
    right = right_or_not(truth, finals)
    return [
        {"a": a, "b": b, **compare(right[a], right[b])}
        for a, b in itertools.combinations(finals, 2)
    ]


def axes(pretraining: dict, halves: dict, wholes: dict, pretrainings: int) -> list[dict]:
    """The accuracy with the middle number of labels over what pretraining had spent: the "points"
    of "axes" in results.json. halves, wholes: {ARM: [job results]}."""
    points = []
    for arm, runs in pretraining.items():
        for share, jobs in ((0.5, halves[arm]), (1.0, wholes[arm])):
            for job in jobs:
                spent = dict.fromkeys(AXES, 0)
                if runs:
                    run = runs[job["seed"] % pretrainings]
                    last = run["curve"][-1]["step"] * share
                    spent = next(point for point in run["curve"] if point["step"] >= last)
                points.append(
                    dict(arm=arm, seed=job["seed"], share=share if runs else 0.0,
                         **{axis: spent[axis] for axis in AXES}, accuracy=job["accuracy"])
                )  # fmt: skip
    return points


def mean_stages(points: list[dict], arm: str, axis: str) -> list[tuple[float, float]]:
    """What an arm had spent of an axis and its accuracy, means over seeds, at each share of its
    pretraining that was tested: a line of those `points`."""
    stages = [[p for p in points if (p["arm"], p["share"]) == (arm, s)] for s in (0.0, 0.5, 1.0)]
    return [
        (float(np.mean([p[axis] for p in stage])), float(np.mean([p["accuracy"] for p in stage])))
        for stage in stages
        if stage
    ]


def answers(results: dict, sizes: list[dict]) -> list[dict]:
    """Questions and what the results say to them. sizes: {"size", "seconds"} for each."""
    card, curve, arms = results["card"], results["label_curve"], results["arms"]
    said = [
        (
            "How long did it take here?",
            f"{card['seconds'] / 60:.1f} minutes for all arms and seeds, about "
            f"{card['watt_hours']:.1f} Wh ({card['watts_source']})",
        )
    ]
    if sizes:
        times = ", ".join(f"{s['size']} {_duration(s['seconds'])}" for s in sizes)
        said.append(
            (
                "How long would one causal pretraining of each size's own steps take here?",
                f"{times}, at the speed measured in this comparison",
            )
        )
    for arm in arms:
        wanted = ENOUGH * curve["mean"][arm][-1]
        enough = next(n for n, a in zip(curve["sizes"], curve["mean"][arm], strict=True)
                      if a >= wanted)  # fmt: skip
        said.append(
            (
                f"How many labels were enough for {arm}?",
                f"{enough:,}: of those tried the fewest that reach {ENOUGH:.0%} of its accuracy "
                f"with {curve['sizes'][-1]:,}",
            )
        )
    said += [best_for_labels(curve, arms, i) for i in range(len(curve["sizes"]))]
    if results.get("pretraining"):
        said += _reading_and_writing(results)
    return [{"question": question, "answer": answer} for question, answer in said]


def best_for_labels(curve: dict, arms: list[str], i: int) -> tuple[str, str]:
    """Which arm classifies best with the i-th number of labels, and which ones the draws, paired,
    cannot tell from it."""
    question = f"Which arm to classify with after {curve['sizes'][i]:,} labels?"
    best = max(arms, key=lambda arm: curve["mean"][arm][i])
    close = []
    for arm in arms:
        pairs = zip(curve["accuracy"][best][i], curve["accuracy"][arm][i], strict=True)
        interval = seed_interval([a - b for a, b in pairs])
        if arm != best and (interval is None or interval[0] <= 0):
            close.append(arm)
    told = f"; the draws do not tell it from {', '.join(close)}" if close else ", beyond the noise"
    return question, f"{best} has the highest mean, {curve['mean'][best][i]:.1%}{told}"


def _reading_and_writing(results: dict) -> list[tuple[str, str]]:
    """Which arm continues a text best (bits per byte of the same reading, so comparable), and which
    can fill in a hidden word."""
    last = {arm: [run["curve"][-1] for run in runs] for arm, runs in results["pretraining"].items()}
    bits = {
        arm: float(np.mean([point["bits_per_byte"] for point in points]))
        for arm, points in last.items()
        if "bits_per_byte" in points[0]
    }
    said = []
    if bits:
        ranked = ", ".join(f"{arm} {bits[arm]:.2f}" for arm in sorted(bits, key=bits.get))
        said.append(
            ("Which arm to continue a text with?", f"bits per byte, the fewer the better: {ranked}")
        )
    right = {
        arm: float(np.mean([point["masked_accuracy"] for point in points]))
        for arm, points in last.items()
        if "masked_accuracy" in points[0]
    }
    if right:
        ranked = ", ".join(f"{a} {right[a]:.1%}" for a in sorted(right, key=right.get)[::-1])
        question = "Which arm to fill in a hidden word with?"
        said.append((question, f"right, of the same hidden words: {ranked}"))
    return said


def readings(arm: str) -> list[str]:
    """What an arm's loss is measured as."""
    if arm in RATIOS:
        return ["causal", "masked"]
    both = {"causal-then-masked": ["causal", "masked"], "masked": ["masked"]}
    return both.get(arm, ["causal"])


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
