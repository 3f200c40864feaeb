"""A comparison's results as Markdown tables, made from results.json alone."""


def all_tables(results: dict) -> str:
    """Every table under its heading."""
    parts = {
        "What was spent, and what it reached": spent,
        "Test accuracy by number of labels": label_curve,
        "Labels that scratch needs to be as good": labels_saved,
        "The final test": finals,
        "Differences of two": verdicts,
        "Learning rate of pretraining": pretraining_sweep,
        "Learning rate of fine-tuning": sweep,
        "Pooling and attention": pooling,
        "Answers": answers,
    }
    return "\n".join(
        f"### {title}\n\n{make(results)}\n" + (f"\n{NOTES[make]}\n" if make in NOTES else "")
        for title, make in parts.items()
    )


def spent(results: dict) -> str:
    """What each pretraining spent on all four axes, and its losses, which are comparable only where
    they are of the same reading: a masked word is seen from both sides, a next one from one."""
    rows = [["arm", "steps", "M tokens", "M targets", "TFLOPs", "seconds", "next-token loss",
             "masked-token loss"]]  # fmt: skip
    for arm, runs in results.get("pretraining", {}).items():
        first, last = runs[0], [run["curve"][-1] for run in runs]
        rows.append(
            [
                arm,
                f"{first['steps']:,}",
                f"{_mean(runs, 'tokens') / 1e6:.2f}",
                f"{_mean(runs, 'targets') / 1e6:.2f}",
                f"{_mean(runs, 'flops') / 1e12:.2f}",
                f"{_mean(runs, 'seconds'):.0f}",
                *(
                    f"{_mean(last, key):.2f}" if key in last[0] else ""
                    for key in ("causal_loss", "masked_loss")
                ),
            ]
        )
    for name, value in results["lines"].items():
        rows.append([f"counting words ({name})", *[""] * 5, f"{value:.2f}", ""])
    return markdown(rows)


def label_curve(results: dict) -> str:
    """The mean over draws, with half of its t-interval."""
    curve = results["label_curve"]
    heads = [f"{n:,} ({d} draws)" for n, d in zip(curve["sizes"], curve["draws"], strict=True)]
    rows = [["arm", *heads]]
    for name in [*results["arms"], *results["baselines"]]:
        bounds = zip(curve["mean"][name], curve["high"][name], strict=True)
        rows.append([name, *(_with_half(mean, high) for mean, high in bounds)])
    return markdown(rows)


def labels_saved(results: dict) -> str:
    """By number of labels; "more" where scratch never gets there."""
    curve = results["label_curve"]
    rows = [["arm", *(f"{n:,}" for n in curve["sizes"])]]
    for arm, found in curve.get("labels_saved", {}).items():
        needs = [entry["scratch_needs"] for entry in found]
        rows.append([arm, *("more" if n is None else f"{n:,}" for n in needs)])
    return markdown(rows)


def finals(results: dict) -> str:
    """Accuracy with both intervals, and macro F1."""
    final = results["finals"]
    rows = [["arm", f"accuracy, {final['labels']:,} labels", "interval from test rows",
             "interval from seeds", "macro F1"]]  # fmt: skip
    for name in [*results["arms"], *results["baselines"]]:
        rows.append(
            [
                name,
                f"{final['mean'][name]:.1%}",
                _interval(final["row_interval"][name]),
                _interval(final["seed_interval"][name]),
                f"{_mean(final['runs'][name], 'macro_f1'):.1%}",
            ]
        )
    return markdown(rows)


def verdicts(results: dict) -> str:
    """Every pair."""
    rows = [
        ["pair", "difference", "from test rows", "from seeds", "McNemar's p by seed", "verdict"]
    ]
    for v in results["verdicts"]:
        rows.append(
            [
                f"{v['a']} - {v['b']}",
                f"{100 * v['difference']:+.1f}",
                _interval(v["rows"], "{:+.1f}"),
                _interval(v["seeds"], "{:+.1f}"),
                ", ".join(f"{p:.2g}" for p in v["mcnemar"]),
                v["verdict"],
            ]
        )
    return markdown(rows)


def pretraining_sweep(results: dict) -> str:
    """Validation loss by learning rate, to be compared along a row only."""
    found = results["pretraining_sweep"]
    rows = [["arm", "steps", *(f"{rate:g}" for rate in found["rates"]), "chosen"]]
    for arm, losses in found["loss"].items():
        cells = [f"{loss:.3f}" for loss in losses]
        rows.append([arm, f"{found['steps'][arm]:,}", *cells, f"{found['chosen'][arm]:g}"])
    return markdown(rows)


def sweep(results: dict) -> str:
    """Validation accuracy by learning rate."""
    found = results["sweep"]
    rows = [[f"arm, {found['labels']:,} labels", *(f"{rate:g}" for rate in found["rates"])]]
    for arm, accuracy in found["accuracy"].items():
        rows.append([arm, *(f"{a:.1%}" for a in accuracy)])
    return markdown(rows)


def pooling(results: dict) -> str:
    """Test accuracy by setting."""
    found = results["pooling"]
    rows = [[f"arm, {found['labels']:,} labels", *found["settings"]]]
    for arm, accuracy in found["accuracy"].items():
        rows.append([arm, *(f"{_plain_mean(draws):.1%}" for draws in accuracy)])
    return markdown(rows)


def answers(results: dict) -> str:
    """Questions and what the results say."""
    rows = [["question", "answer"]]
    rows += [[entry["question"], entry["answer"]] for entry in results["answers"]]
    return markdown(rows)


def markdown(rows: list[list[str]]) -> str:
    """Rows of cells, the first of them the head, as a Markdown table."""
    rows = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _with_half(mean: float, high: float | None) -> str:
    return f"{mean:.1%}" if high is None else f"{mean:.1%} ± {100 * (high - mean):.1f}"


def _interval(bounds: list[float] | None, form: str = "{:.1f}") -> str:
    return "" if bounds is None else " to ".join(form.format(100 * bound) for bound in bounds)


def _mean(entries: list[dict], key: str) -> float:
    return _plain_mean([entry[key] for entry in entries])


def _plain_mean(values: list[float]) -> float:
    return sum(values) / len(values)


NOTES = {  # what a reader could take wrongly
    spent: "Losses of different readings are not ranked against each other: a hidden word is "
    "guessed from both sides, a next word from one, and the words asked for are not the same. What "
    "can be compared is what each loss reaches beside counting words, and the test accuracy below. "
    "Counting has seen the whole text, an arm only the tokens in its row.",
    finals: "The interval from test rows says how far other test texts could have moved an arm, "
    "that from seeds how far other first weights, label samples and orders could.",
    pretraining_sweep: "Validation loss in nats after a short pretraining of its own, the mean of "
    "an arm's readings: compare along a row, never down a column. Causal-then-masked goes on at "
    "causal's rate. What is best for a short run may be a little high for a long one.",
    verdicts: "In points of accuracy. Real: neither of the two 95 % intervals holds zero. Each of "
    "them alone errs once in twenty, so among many pairs a few err. A seed interval from few seeds "
    "is wide: undecided does not mean equal. Where seeds share a pretraining (see the run card), "
    "they say nothing of another one.",
}
