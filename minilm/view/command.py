"""`python -m minilm view`: the page of a run; of a text inside it; of what a classifier takes for
what, how sure it is, and which words matter."""

import contextlib
import webbrowser
from pathlib import Path

import numpy as np

import minilm
from minilm import metrics
from minilm.config import UserError
from minilm.corpora.tokens import prepare
from minilm.huggingface.folders import pretrained_run
from minilm.io.durable import write_file
from minilm.io.terminal import printable
from minilm.tasks.classify import report
from minilm.view import charts, recording
from minilm.view.charts import safe
from minilm.view.pages import inside_page, write_run_page

MISTAKES, WORDS, LABELS = 8, 80, 30  # the most that is shown of each
DELETED = (
    '<p class="note">Shaded: what deleting a word does to the probability of the label that was '
    "predicted. Blue words speak for it, red ones against it. <i>It cannot show</i> what words do "
    "together.</p>"
)


def view(run: str, text: str | None = None, open: bool = False, device: str = "auto") -> Path:
    """Write a run's page, view.html in its folder; or inside.html, the page of a text inside a
    pretraining run or one that translates. Returns its path. Raises UserError where the run or its
    data cannot be used."""
    config = (opened := pretrained_run(run)).config
    task = config["flags"].get("task", "classify") if config["kind"] == "finetune" else None
    if task == "classify":
        model = minilm.load(run, device)
        if text is None:
            model.task.load_tested()
        path = write_run_page(opened, of_tested(model) if text is None else of_text(model, text))
    elif text is None:
        path = write_run_page(opened)
    elif task and task != "translate":
        raise UserError(f"{run} learnt to {task}: leave --text out")
    else:
        path = write_inside_page(minilm.load(run, device), text)
    print(printable(f"{path}: {path.stat().st_size:,} bytes; open it in a browser"))
    if open:
        webbrowser.open(path.resolve().as_uri())
    return path


def write_inside_page(model, text: str) -> Path:
    """Write the page of a text inside a LanguageModel of cli/api.py, or inside one that learnt to
    translate."""
    translates = hasattr(model, "task")
    how = (1, "prefix") if translates else (model.shift, model.objective, unigrams(model))
    record = recording.inside(model.model, model.tokenizer, text, *how)
    folder, size = model.opened.folder, f"{record['layers']} layers of {record['heads']} heads"
    about = f"{folder}: {how[1]} objective, {size}, {model.tokenizer.vocab_size:,} tokens."
    write_file(folder / "inside.html", inside_page(about, record).encode("utf-8", "replace"))
    return folder / "inside.html"


def unigrams(model) -> np.ndarray | None:
    """The share of each token in the text that the run was trained on, (V,), if that is here."""
    flags, own = model.config["flags"], model.tokenizer
    if flags.get("data"):  # imported weights have none
        how = map(flags.get, ("text_column", "encoding", "document_separator"))
        with contextlib.suppress(UserError):
            text = prepare(flags["data"], flags["vocab_size"], own if flags["init"] else None, *how)
            if text.tokenizer.fingerprint == own.fingerprint:
                return np.bincount(text.train, minlength=own.vocab_size) / len(text.train)
    return None


def of_tested(model) -> str:
    """Sections about a Classifier of cli/api.py on the texts that its task has to test on."""
    task, row = model.task, model.task.test(model.model)
    examples, p = task.examples[task.part], np.exp(row["found"])  # p (N, C)
    labels, predicted, mistakes = task.labels(examples), p.argmax(1), ""
    classes, wrong = task.classes, np.flatnonzero(predicted != labels)
    for i in wrong[np.argsort(-p[wrong, predicted[wrong]], kind="stable")][:MISTAKES]:
        title = f"{classes[labels[i]]}, taken for {classes[predicted[i]]} ({p[i].max():.1%})"
        words = without_each_word(model, examples[i].text, predicted[i])
        mistakes += f"<h3>{safe(title)}</h3>{words}"
    return (
        f"<section><h2>{task.part.capitalize()} texts</h2>"
        f"{confusion_table(row['confusion'], classes)}{calibration(p, labels)}</section><section>"
        f"<h2>The most confident mistakes</h2>{DELETED}{mistakes or 'There are none.'}</section>"
    )


def of_text(model, text: str) -> str:
    """The section about one text of a Classifier."""
    [p] = model.predict_proba([text])
    best, names = np.argsort(-p, kind="stable")[:10], model.task.classes
    rows = [charts.Row(names[i], 100 * float(p[i]), None, 0) for i in best]
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
        rows += f"<tr><th>{safe(name)}</th>"
        for j, n in enumerate(confusion[i]):
            shade = f'class="token c{int(i != j)}" style="--w: {shares[i, j]:.2f}"'
            rows += f"<td {shade}>{n or ''}</td>"
        rows += "</tr>"
    return (
        f'<p>{words.splitlines()[0]}</p><p class="note">True labels in rows, predicted ones in '
        f'columns.</p><div class="wide"><table class="matrix">{rows}</table></div>'
    )


def calibration(p: np.ndarray, labels: np.ndarray, bins: int = 10) -> str:
    """Is a text that is given 80 % right in 80 % of the cases? p (N, C), labels (N,)."""
    confidence, right, points = p.max(1), p.argmax(1) == labels, []
    bin_of = np.ceil(confidence * bins)
    for inside in (bin_of == m for m in np.unique(bin_of)):
        low, high = metrics.wilson_interval(int(right[inside].sum()), int(inside.sum()))
        means = 100 * confidence[inside].mean(), 100 * right[inside].mean()
        points.append((*means, 100 * low, 100 * high))
    ideal = [(points[i][0], points[i][0]) for i in (0, -1)]
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
        (word + " ", effect / scale, f"{100 * effect:+.1f} points")
        for word, effect in zip(words, effects, strict=True)
    ])  # fmt: skip
