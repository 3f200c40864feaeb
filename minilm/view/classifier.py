"""A classifier on its run's page: what it takes for what, how sure it is, which words matter."""

from collections.abc import Sequence

import numpy as np

from minilm import metrics
from minilm.cli.terminal import escaped
from minilm.runs.classify import report
from minilm.view import charts
from minilm.view.run_page import safe

MISTAKES, WORDS, LABELS = 8, 80, 30  # the most that is shown of each
DELETED = (
    '<p class="note">Shaded: what deleting a word does to the probability of the label that was '
    "predicted. Blue words speak for it, red ones against it. <i>It cannot show</i> what words do "
    "together.</p>"
)


def sections(model, text: str | None) -> str:
    """About a Classifier of cli/api.py: on a text, or on the texts that it was tested on."""
    if text is not None:
        return of_text(model, text)
    model.task.load_tested()
    part = model.task.part
    return of_examples(model, model.task.examples[part], f"{part.capitalize()} texts")


def of_examples(model, examples: Sequence, name: str) -> str:
    """Sections about a Classifier on labelled texts, (text, label) each."""
    labels, classes = model.task.labels(examples), [*map(escaped, model.task.classes)]
    p = model.predict_proba([x.text for x in examples])  # (N, C)
    predicted, mistakes = p.argmax(1), ""
    wrong = np.flatnonzero(predicted != labels)
    for i in wrong[np.argsort(-p[wrong, predicted[wrong]], kind="stable")][:MISTAKES]:
        title = f"{classes[labels[i]]}, taken for {classes[predicted[i]]} ({p[i].max():.1%})"
        words = without_each_word(model, examples[i].text, predicted[i])
        mistakes += f"<h3>{safe(title)}</h3>{words}"
    table = confusion_table(metrics.confusion_matrix(labels, predicted, len(classes)), classes)
    return (
        f"<section><h2>{safe(name)}</h2>{table}{calibration(p, labels)}</section><section>"
        f"<h2>The most confident mistakes</h2>{DELETED}{mistakes or 'There are none.'}</section>"
    )


def of_text(model, text: str) -> str:
    """The section about one text of a Classifier."""
    [p] = model.predict_proba([text])
    best = np.argsort(-p, kind="stable")[:10]
    classes = [*map(escaped, model.task.classes)]
    rows = [charts.Row(classes[i], 100 * float(p[i]), None, 0) for i in best]
    bars = charts.intervals("Probabilities", "of the likeliest labels", rows, 0, 100, unit=" %")
    words = without_each_word(model, text, best[0])
    return f"<section><h2>The text</h2>{bars}{DELETED}{words}</section>"


def confusion_table(confusion: np.ndarray, classes: list[str]) -> str:
    """The confusion matrix, shaded by share of the row; of many labels the report in words."""
    words = safe(report(confusion, classes))
    if len(classes) > LABELS:
        return f"<pre>{words}</pre>"
    rows = "<tr><th></th>" + "".join(f"<th>{safe(name)}</th>" for name in classes) + "</tr>"
    shares = confusion / np.maximum(1, confusion.sum(1, keepdims=True))
    for i, name in enumerate(classes):
        cells = "".join(
            f'<td class="token c{int(i != j)}" style="--w: {shares[i, j]:.2f}">{n or ""}</td>'
            for j, n in enumerate(confusion[i])
        )
        rows += f"<tr><th>{safe(name)}</th>{cells}</tr>"
    return (
        f'<p>{words.splitlines()[0]}</p><p class="note">True labels in rows, predicted ones in '
        f'columns.</p><div class="wide"><table class="matrix">{rows}</table></div>'
    )


def calibration(p: np.ndarray, labels: np.ndarray, bins: int = 10) -> str:
    """Is a text that is given 80 % right in 80 % of the cases? p (N, C), labels (N,)."""
    confidence, right, points = p.max(1), p.argmax(1) == labels, []
    for low in np.arange(bins) / bins:
        inside = (confidence > low) & (confidence <= low + 1 / bins)
        if n := int(inside.sum()):
            bounds = (100 * x for x in metrics.wilson_interval(int(right[inside].sum()), n))
            points.append((100 * confidence[inside].mean(), 100 * right[inside].mean(), *bounds))
    ideal = [(points[i][0], points[i][0], None, None) for i in (0, -1)]
    lines = [charts.Line("as sure as right", ideal, 7), charts.Line("measured", points, 0)]
    note = ("how often a label is right, by its probability, with 95 % intervals; expected "
            f"calibration error {metrics.calibration_error(p, labels):.3f}")  # fmt: skip
    return charts.curves("Calibration", note, lines, "% sure", unit=" %", low=0, high=100)


def without_each_word(model, text: str, label: int) -> str:
    """A text, each word shaded by how much its deletion lowers P(label)."""
    words = text.split()[:WORDS]
    rest = [" ".join(words[:i] + words[i + 1 :]) for i in range(len(words))]
    p = model.predict_proba([" ".join(words), *rest])[:, label]
    effects = (p[0] - p[1:]).tolist()
    scale = max(0.05, *map(abs, effects)) if effects else 1
    return charts.tokens([
        (escaped(word) + " ", effect / scale, f"{100 * effect:+.1f} points")
        for word, effect in zip(words, effects, strict=True)
    ])  # fmt: skip
