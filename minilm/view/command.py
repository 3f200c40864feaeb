"""`python -m minilm view`: the page of a run; of a text inside it; of what a classifier takes for
what, how sure it is, and which words matter."""

import contextlib
import webbrowser
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from minilm import metrics
from minilm.config import UserError
from minilm.corpora.tokens import prepare
from minilm.huggingface.folders import pretrained_run
from minilm.tasks.classify import report
from minilm.view import charts, live, recording
from minilm.view.pages import write_page, write_run_page

MISTAKES, WORDS = 8, 80  # the most that is shown of each
TEXT = "Return the number of elements in the list. If the list is empty, raise an error."


def view(
    run: str, load: Callable, text: str | None = None, live: bool = False, open: bool = False
) -> Path:
    """Write a run's page, view.html in its folder. load: `minilm.load`. live: inside.html, the page
    in which its weights answer. text: inside.html, the page of a text inside a language model; of a
    classifier, what it says to it, in view.html. Returns its path. Raises UserError where the run
    or its data cannot be used."""
    config = (opened := pretrained_run(run)).config
    task = config["flags"].get("task", "classify") if config["kind"] == "finetune" else None
    if live or (text is not None and task != "classify"):
        path = write_inside_page(load(run), text, live)
    elif task == "classify":
        model = load(run)
        about = dict(tested=of_tested(model)) if text is None else dict(text=of_text(model, text))
        path = write_run_page(opened, **about)
    else:
        path = write_run_page(opened)
    print(f"{path}: {path.stat().st_size:,} bytes; open it in a browser")
    if open:
        webbrowser.open(path.resolve().as_uri())
    return path


def write_inside_page(model, text: str | None, live_only: bool = False, exact=False) -> Path:
    """Write the page of a text inside a model of cli/api.py, which computes where it can: else what
    a language model makes of this one text is recorded. exact: with float32 weights. Raises
    UserError for what has no such page."""
    folder, shape = model.opened.folder, model.config["model"]
    size = f"{shape['n_layers']} layers of {shape['n_heads']} heads"
    about = f"{folder}: {size}, {model.tokenizer.vocab_size:,} tokens."
    title, path = "A text inside the model", folder / "inside.html"
    reason = live.cannot(model)
    if reason and (live_only or hasattr(model, "task")):
        raise UserError(reason)
    if reason:
        model.must_predict()
        how = model.shift, model.objective
        data = recording.inside(model.model, model.tokenizer, text, *how)
        return write_page(path, "inside.html", title, data, about=about)
    data = live.data_of(model, known := corpus(model), exact)
    text = first_text(model, known) if text is None else text
    facts = {name: data[name] for name in ("task", "change")}
    facts["writes"] = data["objective"] in ("causal", "hybrid")
    return write_page(path, "inside.html", title, data, about=about, live=True, exact=exact,
                      text=text, **facts)  # fmt: skip


def first_text(model, corpus) -> str:
    """A text to begin with: the first one that the run is tested on, of a language model the
    beginning of its validation text; one of ours where that is not here, or Python's."""
    if examples := hasattr(model, "task") and getattr(model.task, "examples", {}):
        return examples[model.task.part][0][0]
    if corpus and model.config["flags"]["data"] != ["python-docs"]:
        tokens = corpus.valid[:24]
        return model.tokenizer.decode(tokens[np.isin(tokens, model.tokenizer.special.ordinary)])
    return TEXT


def corpus(model):
    """The text that a language model was trained on, as tokens, if that is here."""
    flags, own = model.config["flags"], model.tokenizer
    if flags.get("data") and not hasattr(model, "task"):  # imported weights have none
        with contextlib.suppress(Exception):  # whatever these flags have become
            text = prepare(SimpleNamespace(**flags), own if flags["init"] else None)
            if text.tokenizer.fingerprint == own.fingerprint:
                return text
    return None


def of_tested(model) -> dict:
    """What a Classifier of cli/api.py does with the texts that its task has to test on."""
    model.task.load_tested()
    task, row = model.task, model.task.test(model.model)
    examples, p = task.examples[task.part], np.exp(row["found"])  # p (N, C)
    labels, predicted, mistakes = task.labels(examples), p.argmax(1), []
    classes, wrong = task.classes, np.flatnonzero(predicted != labels)
    for i in wrong[np.argsort(-p[wrong, predicted[wrong]], kind="stable")][:MISTAKES]:
        title = f"{classes[labels[i]]}, taken for {classes[predicted[i]]} ({p[i].max():.1%})"
        mistakes.append((title, without_each_word(model, examples[i].text, predicted[i])))
    confusion = row["confusion"]
    return dict(part=task.part, classes=classes, report=report(confusion, classes),
                confusion=confusion.tolist(), calibration=calibration(p, labels),
                mistakes=mistakes)  # fmt: skip


def of_text(model, text: str) -> dict:
    """What a Classifier says to one text."""
    [p] = model.predict_proba([text])
    best, names = np.argsort(-p, kind="stable")[:10], model.task.classes
    rows = [charts.Row(names[i], 100 * float(p[i]), None, 0) for i in best]
    bars = charts.intervals("Probabilities", "of the likeliest labels", rows, 0, 100, unit=" %")
    return dict(probabilities=bars, words=without_each_word(model, text, best[0]))


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
    """A text, each word shaded by how much its deletion lowers P(label). Of a long one the first
    words are shown; the others stay."""
    words = text.split()
    rest = [" ".join(words[:i] + words[i + 1 :]) for i in range(len(words[:WORDS]))]
    p = model.predict_proba([text, *rest])[:, label]
    effects = (p[0] - p[1:]).tolist()
    scale = max(0.05, *map(abs, effects)) if effects else 1
    shaded = charts.draw("tokens", [
        (word + " ", effect / scale, f"{100 * effect:+.1f} points")
        for word, effect in zip(words[:WORDS], effects, strict=True)
    ])  # fmt: skip
    if (n := len(words) - WORDS) > 0:
        shaded += charts.draw("note", f"{n:,} more words are not shown; the model reads them.")
    return shaded
