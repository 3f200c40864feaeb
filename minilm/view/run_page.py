"""A run on one page: how it learnt, what it said on the way, what it cost; a classifier's mistakes."""

import json
from html import escape

import numpy as np

from minilm import metrics
from minilm.cli.terminal import escaped
from minilm.runs.durable import write_file
from minilm.view import charts
from minilm.view.pages import page

POINTS, SAMPLES, MISTAKES, WORDS = 50, 12, 8, 80  # the most that is shown of each
LOSSES = {"causal_loss": "next token", "masked_loss": "masked token", "loss": "validation"}


def write_run_page(run, more: str = ""):
    """Write view.html into a run's folder, also while it trains; `more`: HTML to add. Returns its
    path."""
    config, lines = run.config, run.metrics()
    result = run.folder / "result.json"
    result = json.loads(result.read_bytes()) if result.exists() else {}
    kind, flags = config["kind"], config["flags"]
    evaluated = [line for line in lines if "score" in line]
    facts = [kind, flags.get("objective"), flags.get("size"), config["family"]]
    facts.append("finished" if result else f"step {lines[-1]['step'] if lines else 0}, not finished")
    parts = [
        f"<h1>{escape(escaped(str(run.folder)))}</h1>",
        f"<p>{escape(escaped(', '.join(filter(None, facts))))}</p>",
        learning(lines, evaluated, config.get("unigram_entropy")),
        more,
        samples(evaluated),
        cost(lines, config, result),
        next_commands(run, kind, flags),
    ]
    html = page(f"{run.folder.name}: {kind}", "".join(parts), refresh=0 if result else 20)
    path = run.folder / "view.html"
    write_file(path, html.encode("utf-8", "replace"))
    return path


def learning(lines: list[dict], evaluated: list[dict], unigram: float | None) -> str:
    """The curves: training, validation, what token frequencies alone reach, the best step."""
    trained = [line for line in lines if "score" not in line and "loss" in line]
    if not trained and not evaluated:
        return "<p>Nothing is measured yet.</p>"
    drawn = []
    for some in np.array_split(trained, min(POINTS, len(trained))) if trained else []:
        mean = float(np.mean([line["loss"] for line in some]))
        drawn.append((some[-1]["step"], mean, None, None))
    curves = [charts.Line("training", drawn, 7)] if drawn else []
    for i, (name, label) in enumerate(LOSSES.items()):
        if points := [(line["step"], line[name], None, None) for line in evaluated if name in line]:
            curves.append(charts.Line(label, points, i))
    marks = [("unigrams", unigram)] if unigram else []
    note = "nats a target; training: means of neighbouring steps; validation: text never trained on"
    said = ""
    if evaluated:
        best, last = min(evaluated, key=lambda line: line["score"])["step"], evaluated[-1]["step"]
        values = [y for line in curves for _, y, *_ in line.points] + [y for _, y in marks]
        upright = (best, min(values), min(values), max(values))
        curves.append(charts.Line(f"best: step {best}", [upright], 3))
        worse = f"Validation has got worse since then: after step {best} the run overfits."
        said = f"<p>Step {best} is the best on validation and is used from now on. "
        said += f"{worse if last > best else 'It has not got worse since.'}</p>"
    html = charts.curves("Loss", note, curves, "steps", marks=marks) + said
    scores = [
        charts.Line(label, [(x["step"], 100 * x[name], None, None) for x in evaluated], i)
        for i, (name, label) in enumerate((("accuracy", "accuracy"), ("macro_f1", "macro F1")))
        if evaluated and name in evaluated[0]
    ]
    if scores:
        html += charts.curves("Labels found", "validation texts", scores, "steps", unit=" %")
    return f"<section><h2>Learning</h2>{html}</section>"


def samples(evaluated: list[dict]) -> str:
    """What the model made of one validation text, as it learnt."""
    there = [line for line in evaluated if line.get("sample")]
    if not there:
        return ""
    chosen = np.unique(np.linspace(0, len(there) - 1, SAMPLES).round().astype(int))
    shown = "".join(
        f'<h3>step {there[i]["step"]}</h3><div class="text">'
        f"{escape(escaped(there[i]['sample'].strip()))}</div>"
        for i in chosen
    )
    return f'<section><h2>Samples</h2><p class="note">A validation text: its beginning continued, \
and its masks filled in, [in brackets].</p>{shown}</section>'


def cost(lines: list[dict], config: dict, result: dict) -> str:
    """What the run has taken so far."""
    spent = next((line for line in reversed(lines) if "seconds" in line), {})
    rows = {"tokens seen": spent.get("tokens"), "seconds of training": spent.get("seconds")}
    if spent.get("seconds"):
        rows["tokens a second"] = spent["tokens"] / spent["seconds"]
    if config.get("train_tokens"):
        rows["times the text was read"] = spent.get("tokens", 0) / config["train_tokens"]
    rows |= {name: result.get(name) for name in ("parameters", "flops_per_second")}
    shape = " x ".join(f"{config['model'][name]}" for name in ("n_layers", "d_model"))
    cells = "".join(
        f"<tr><th>{escape(name.replace('_', ' '))}</th><td>{charts.number(value)}</td></tr>"
        for name, value in rows.items()
        if value is not None
    )
    flags = "\n".join(f"{name} = {value}" for name, value in config["flags"].items())
    return (
        f"<section><h2>Cost</h2><table>{cells}<tr><th>layers x width</th><td>{shape}</td></tr>"
        f"</table><details><summary>Every flag</summary><pre>{escape(escaped(flags))}</pre>"
        f"</details></section>"
    )


def next_commands(run, kind: str, flags: dict) -> str:
    """What can be done with the run."""
    if kind == "pretrain":
        use = "fill" if flags["objective"] == "masked" else "generate"
        prompt = "The result is <mask>." if use == "fill" else "Return the"
        commands = [f'{use} {run.folder} "{prompt}"', f'view {run.folder} --text "a sentence"',
                    f"finetune --pretrained {run.folder}"]  # fmt: skip
    else:
        commands = [f'predict {run.folder} "a text"', f'view {run.folder} --text "a text"']
    shown = escape(escaped("\n".join(f"python -m minilm {command}" for command in commands)))
    return f"<section><h2>Next</h2><pre>{shown}</pre></section>"


def classification(model, task) -> str:
    """Sections about a Classifier of api.py on the test texts of a task (runs/classify.py)."""
    texts, labels = task.examples[task.part], task.data[task.part].labels
    log_p = task.log_probabilities(model.classifier, task.part)
    p, classes = np.exp(log_p), [escaped(name) for name in task.classes]
    predicted = p.argmax(1)
    confusion = metrics.confusion_matrix(labels, predicted, len(classes))
    wrong = np.flatnonzero(predicted != labels)
    wrong = wrong[np.argsort(-p[wrong, predicted[wrong]], kind="stable")][:MISTAKES]
    mistakes = "".join(
        f"<h3>{escape(classes[labels[i]])}, taken for {escape(classes[predicted[i]])} "
        f"({p[i].max():.1%})</h3>{without_each_word(model, texts[i].text, predicted[i])}"
        for i in wrong
    )
    return (
        f"<section><h2>{task.part.capitalize()} texts</h2>{confusion_table(confusion, classes)}"
        f"{calibration(p, labels)}</section><section><h2>The most confident mistakes</h2>"
        f'<p class="note">Shaded: what deleting a word does to the probability of the label that '
        f"was predicted; blue words speak for it, red ones against it. It cannot show what words "
        f"do together.</p>{mistakes or '<p>There are none.</p>'}</section>"
    )


def confusion_table(confusion: np.ndarray, classes: list[str]) -> str:
    """The confusion matrix, shaded by share of the row; of many labels the report in words."""
    report = escape(metrics.report(confusion, classes))
    if len(classes) > 30:
        return f'<pre class="wide">{report}</pre>'
    heads = "".join(f"<th>{escape(name)}</th>" for name in classes)
    rows = ""
    for i, name in enumerate(classes):
        cells = "".join(
            f'<td class="token c{int(i != j)}" style="--w: {n / max(1, confusion[i].sum()):.2f}">'
            f"{n or ''}</td>"
            for j, n in enumerate(confusion[i])
        )
        rows += f"<tr><th>{escape(name)}</th>{cells}</tr>"
    return (
        f'<p>{report.splitlines()[0]}</p><p class="note">True labels in rows, predicted ones in '
        f'columns.</p><div class="wide"><table><tr><th></th>{heads}</tr>{rows}</table></div>'
    )


def calibration(p: np.ndarray, labels: np.ndarray, bins: int = 10) -> str:
    """Is a text that is given 80 % right in 80 % of the cases? p (N, C), labels (N,)."""
    confidence, right = p.max(1), p.argmax(1) == labels
    points = []
    for low in np.arange(bins) / bins:
        inside = (confidence > low) & (confidence <= low + 1 / bins)
        if n := int(inside.sum()):
            bounds = (100 * x for x in metrics.wilson_interval(int(right[inside].sum()), n))
            points.append((100 * confidence[inside].mean(), 100 * right[inside].mean(), *bounds))
    ends = points[0][0], points[-1][0]
    ideal = charts.Line("as sure as right", [(x, x, None, None) for x in ends], 7)
    error = metrics.calibration_error(p, labels)
    note = f"how often a label is right, by its probability, with 95 % intervals; expected \
calibration error {error:.3f}"
    lines = [ideal, charts.Line("measured", points, 0)]
    return charts.curves("Calibration", note, lines, "% sure", unit=" %", low=0, high=100)


def without_each_word(model, text: str, label: int) -> str:
    """A text, each word shaded by how much its deletion lowers P(label)."""
    words = text.split()[:WORDS]
    rest = [" ".join(words[:i] + words[i + 1 :]) for i in range(len(words))]
    p = model.predict_proba([" ".join(words), *rest])[:, label]
    effects = p[0] - p[1:]
    scale = max(0.05, float(np.abs(effects).max(initial=0.0)))
    pieces = [
        (escaped(word) + " ", float(effect) / scale, f"{100 * effect:+.1f} points")
        for word, effect in zip(words, effects, strict=True)
    ]
    return charts.tokens(pieces)


def text_page(model, text: str) -> str:
    """The section about one text of a Classifier."""
    [p] = model.predict_proba([text])
    rows = [
        charts.Row(escaped(str(model.classes_[i])), 100 * float(p[i]), None, 0)
        for i in np.argsort(-p, kind="stable")[:10]
    ]
    bars = charts.intervals("Probabilities", "of the likeliest labels", rows, 0, 100, unit=" %")
    return f"<section><h2>The text</h2>{without_each_word(model, text, p.argmax())}{bars}</section>"
