"""One sentence under each section of a comparison's report, computed from results.json: what a
reader should see in the figure above it. Nothing here knows which arm wins."""

from collections.abc import Callable

import numpy as np

from minilm.experiments.summary import AXES, mean_stages


def findings(results: dict) -> dict[str, str]:
    """{section title: sentence}; no entry where there is nothing to say yet."""
    said = {title: find(results) for title, find in FINDINGS.items()}
    return {title: sentence for title, sentence in said.items() if sentence}


def learning_curves(results: dict) -> str:
    """Who is below the trigram line, and who was still learning."""
    lines, better, falling = results["lines"], [], []
    for arm, runs in results.get("pretraining", {}).items():
        for reading in results["readings"][arm]:
            key = f"{reading}_loss"
            losses = np.mean(
                [[point[key] for point in run["curve"] if key in point] for run in runs], axis=0
            )
            if reading == "causal" and losses[-1] < lines["trigram"]:
                better.append(arm)
            if len(losses) > 1:
                falling.append(f"{arm} ({reading}) {losses[-2] - losses[-1]:.2f}")
    if not falling:
        return ""
    below = ", ".join(better) or "none"
    return (
        f"Better at the next token than counting triples of words: {below}. Nats that the last "
        f"part of the training still brought: {', '.join(falling)}."
    )


def over_axes(results: dict) -> str:
    """The best arm where all have spent the same of one axis: what the thriftiest arm has spent in
    all, between what was measured (at nothing, half-way, at the end) in a straight line."""
    points, best = results["axes"]["points"], []
    arms = [arm for arm in results["arms"] if arm != "scratch"]
    for axis in AXES:
        start = mean_stages(points, "scratch", axis)
        known = {
            arm: list(zip(*start, *mean_stages(points, arm, axis), strict=True)) for arm in arms
        }
        if len(known) > 1:
            same = min(spent[-1] for spent, _ in known.values())
            at = {arm: np.interp(same, *curve) for arm, curve in known.items()}
            first = max(at, key=at.get)
            best.append(f"of {axis} {first} ({at[first]:.1%})")
    if not best:
        return ""
    return (
        f"The highest mean with {results['axes']['labels']:,} labels where all have spent the same "
        f"{'; '.join(best)}. Whether that is more than noise, the intervals below say."
    )


def labels_saved(results: dict) -> str:
    """One number: what the best pretraining saves at the fewest labels."""
    curve = results["label_curve"]
    saved = curve["labels_saved"]
    if not saved:
        return ""
    fewest, most = curve["sizes"][0], curve["sizes"][-1]
    best = max(saved, key=lambda arm: curve["mean"][arm][0])
    needs = saved[best][0]["scratch_needs"]
    so_many = f"more than the {most:,} tried" if needs is None else f"about {needs:,}"
    gain = curve["mean"][best][0] - curve["mean"]["scratch"][0]
    return (
        f"Best with {fewest:,} labels: {best}, {100 * gain:+.1f} points beside scratch, which "
        f"needs {so_many} labels to be as good."
    )


def final_test(results: dict) -> str:
    """The best net, and the best baseline beside it."""
    final = results["finals"]
    best, base = (
        max(names, key=final["mean"].get) for names in (results["arms"], results["baselines"])
    )
    low, high = final["row_interval"][best]
    return (
        f"The best net is {best} with {final['mean'][best]:.1%} ({low:.1%} to {high:.1%} by the "
        f"test texts); the best baseline, {base}, has {final['mean'][base]:.1%}."
    )


def real_differences(results: dict) -> str:
    """How many pairs of nets can be told apart, and which."""
    arms = results["arms"]
    pairs = [v for v in results["verdicts"] if v["a"] in arms and v["b"] in arms]
    if not pairs:
        return ""
    real = []
    for v in pairs:
        if v["verdict"] == "real":
            ahead, behind = (v["a"], v["b"]) if v["difference"] > 0 else (v["b"], v["a"])
            real.append(f"{ahead} over {behind} by {100 * abs(v['difference']):.1f}")
    which = f": {'; '.join(real)} points" if real else ""
    return f"Of {len(pairs)} pairs of nets {len(real)} can be told apart{which}."


def pooling(results: dict) -> str:
    """The best setting of each arm."""
    found = results["pooling"]
    best = {
        arm: found["settings"][int(np.argmax([np.mean(draws) for draws in rows]))]
        for arm, rows in found["accuracy"].items()
    }
    said = ", ".join(f"{arm} {setting.replace('/', ' and ')}" for arm, setting in best.items())
    return f"The highest mean: {said}."


def pretraining_rates(results: dict) -> str:
    """Which rate each arm took."""
    found = results["pretraining_sweep"]
    return _rates(found["chosen"], found["rates"])


def finetuning_rates(results: dict) -> str:
    """Which rate each arm took."""
    found = results["sweep"]
    return _rates(found["chosen"], found["rates"])


def _rates(chosen: dict[str, float], rates: list[float]) -> str:
    if not chosen:
        return ""
    said = f"Chosen: {', '.join(f'{arm} {rate:g}' for arm, rate in chosen.items())}."
    edge = [arm for arm, rate in chosen.items() if rate in (min(rates), max(rates))]
    return said + (f" At the edge of what was tried: {', '.join(edge)}." if edge else "")


def grammar(results: dict) -> str:
    """Which readings do better than counting."""
    counted = results.get("pairs", {}).get("rows")
    if not counted:
        return ""
    line = max(np.mean(list(row.values())) for row in counted.values())
    means = {
        f"{arm}, {reading}": np.mean(list(shares.values()))
        for arm, analysis in results["analyses"].items()
        for reading, shares in analysis.get("pairs", {}).items()
    }
    if not means:
        return ""
    best = max(means, key=means.get)
    above = sum(mean > line for mean in means.values())
    return (
        f"{above} of {len(means)} readings do better than the better way of counting words "
        f"({line:.1%}); the best is {best} with {means[best]:.1%}."
    )


def probe(results: dict) -> str:
    """Where each arm's probe is best."""
    peaks = [
        f"{arm} layer {int(np.argmax(found['probe']))} ({max(found['probe']):.1%})"
        for arm, found in results["analyses"].items()
    ]
    return f"Best read off at: {', '.join(peaks)}."


def attention(results: dict) -> str:
    """How far a mean head looks, beside one that looks at everything alike."""
    said = []
    for arm, analysis in results["analyses"].items():
        for reading, look in analysis.get("attention", {}).items():
            far = np.mean(look["distance"])
            said.append(f"{arm} ({reading}) {far:.1f} of {look['even_distance']:.1f}")
    if not said:
        return ""
    return f"A mean head looks so many tokens far, of so many if it looked everywhere alike: " \
           f"{', '.join(said)}."  # fmt: skip


def calibration(results: dict) -> str:
    """Who is too sure, who not sure enough."""
    said = []
    for arm, analysis in results["analyses"].items():
        bins = analysis["calibration"]["bins"]
        texts = sum(b["texts"] for b in bins)
        gap = sum(b["texts"] * (b["confidence"] - b["accuracy"]) for b in bins) / texts
        kind = "too sure" if gap > 0 else "not sure enough"
        said.append(f"{arm} is {kind} by {100 * abs(gap):.1f} points")
    return f"On the mean {', '.join(said)}."


def fairness(results: dict) -> str:
    """Whose interval does not hold zero."""
    found = {a: v["fairness"] for a, v in results["analyses"].items() if "fairness" in v}
    if not found:
        return ""
    intervals = {arm: f["change_interval"] for arm, f in found.items()}
    moved = [arm for arm, (low, high) in intervals.items() if not low <= 0 <= high]
    return f"A change from his to hers that is more than noise: {', '.join(moved) or 'none found'}."


FINDINGS: dict[str, Callable[[dict], str]] = {
    "Learning curves": learning_curves,
    "Accuracy over what pretraining spent": over_axes,
    "Accuracy by number of labels": labels_saved,
    "The final test": final_test,
    "Which differences are real": real_differences,
    "Pooling and attention": pooling,
    "Learning rate of pretraining": pretraining_rates,
    "Learning rate of fine-tuning": finetuning_rates,
    "Grammar": grammar,
    "Where the label lives": probe,
    "What each sees": attention,
    "Is it right as often as it is sure?": calibration,
    "Who is spoken of": fairness,
}
