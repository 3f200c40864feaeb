"""A run on one page: how it learnt, what it said on the way, what it cost."""

import json
from html import escape

import numpy as np

from minilm.cli.terminal import escaped
from minilm.runs.durable import write_file
from minilm.view import charts
from minilm.view.pages import page

POINTS, SAMPLES = 30, 12  # the most that is shown of each
LOSSES = {"causal_loss": "next token", "masked_loss": "masked token", "loss": "validation"}
SCORES = {"accuracy": "accuracy", "macro_f1": "macro F1", "f1": "F1", "exact": "exact"}


def write_run_page(run, more: str = ""):
    """Write view.html into a run's folder, also while it trains; `more`: HTML to add. Returns its
    path."""
    config, lines, result = run.config, run.metrics(), run.folder / "result.json"
    result = json.loads(result.read_bytes()) if result.exists() else {}
    kind, flags, step = config["kind"], config["flags"], lines[-1]["step"] if lines else 0
    state = "finished" if result else f"step {step}, not finished"
    facts = [kind, flags.get("objective"), flags.get("size"), config["family"], state]
    evaluated = [line for line in lines if "score" in line]
    body = (
        f"<h1>{safe(run.folder)}</h1><p>{safe(', '.join(filter(None, facts)))}</p>"
        f"{learning(lines, evaluated, config.get('unigram_entropy'))}{more}"
        f"{samples([line for line in evaluated if line.get('sample')])}"
        f"{cost(lines, config, result)}"
        f"<h2>Next</h2><pre>{safe(next_commands(run.folder, kind, flags))}</pre>"
    )
    html = page(f"{run.folder.name}: {kind}", body, refresh=0 if result else 20)
    path = run.folder / "view.html"
    write_file(path, html.encode("utf-8", "replace"))
    return path


def safe(text) -> str:
    """A text of anyone's as HTML that shows it and does nothing."""
    return escape(escaped(str(text)))


def learning(lines: list[dict], evaluated: list[dict], unigram: float | None) -> str:
    """The curves: training, validation, what token frequencies alone reach, the best step."""
    if not lines:
        return "<p>Nothing is measured yet.</p>"
    trained = np.array([(line["step"], line["loss"]) for line in lines if "score" not in line])
    means = [
        (int(some[-1, 0]), float(some[:, 1].mean()), None, None)
        for some in np.array_split(trained, min(POINTS, len(trained)) or 1)
        if len(some)
    ]
    curves = [charts.Line("training", means, 7)] if means else []
    curves += _lines(evaluated, LOSSES)
    marks, said = [("unigrams", unigram)] if unigram else [], ""
    if evaluated:
        best, last = min(evaluated, key=lambda line: line["score"])["step"], evaluated[-1]["step"]
        heights = [y for line in curves for _, y, *_ in line.points] + [y for _, y in marks]
        upright = best, min(heights), min(heights), max(heights)
        curves.append(charts.Line(f"best: step {best}", [upright], 3))
        worse = f"Validation has got worse since then: after step {best} the run overfits."
        worse = worse if last > best else "It has not got worse since."
        said = f"<p>Step {best} is the best on validation, and the one that is used. {worse}</p>"
    note = "nats a target; training: means of neighbouring steps; validation: text held out"
    html = charts.curves("Loss", note, curves, "steps", marks=marks) + said
    if scores := _lines(evaluated, SCORES, 100):
        html += charts.curves("Right", "share of the validation texts", scores, "steps", unit=" %")
    return f"<section><h2>Learning</h2>{html}</section>"


def _lines(evaluated: list[dict], names: dict[str, str], scale: float = 1) -> list[charts.Line]:
    """A line for each of the values that the evaluations have."""
    return [
        charts.Line(label, [(x["step"], scale * x[name], None, None) for x in evaluated], i)
        for i, (name, label) in enumerate(names.items())
        if evaluated and name in evaluated[0]
    ]


def samples(there: list[dict]) -> str:
    """What the model made of one validation text, as it learnt."""
    if not there:
        return ""
    shown = ""
    for i in np.unique(np.linspace(0, len(there) - 1, SAMPLES).round().astype(int)):
        text = "\n".join(map(str.strip, there[i]["sample"].strip().splitlines()))
        shown += f"<h3>step {there[i]['step']}</h3><div class=text>{safe(text)}</div>"
    note = "A validation text: its beginning continued, or its masks filled in, [in brackets]."
    return f'<section><h2>Samples</h2><p class="note">{note}</p>{shown}</section>'


def cost(lines: list[dict], config: dict, result: dict) -> str:
    """What the run has taken so far, and with which flags."""
    spent = next((line for line in reversed(lines) if "seconds" in line), {})
    tokens, seconds = spent.get("tokens", 0), spent.get("seconds", 0)
    rows = {"tokens seen": tokens, "seconds of training": seconds}
    rows |= {"tokens a second": tokens / seconds} if seconds else {}
    if config.get("train_tokens"):
        rows["times the text was read"] = tokens / config["train_tokens"]
    done = [name for name in ("parameters", "flops_per_second") if name in result]
    rows |= {name.replace("_", " "): result[name] for name in done}
    rows |= {name: config["model"][name] for name in ("n_layers", "d_model", "max_length")}
    cells = "".join(f"<tr><th>{k}</th><td>{charts.number(v)}</td></tr>" for k, v in rows.items())
    flags = "\n".join(f"{name} = {value}" for name, value in config["flags"].items())
    more = f"<details><summary>Every flag</summary><pre>{safe(flags)}</pre></details>"
    return f"<section><h2>Cost</h2><table>{cells}</table>{more}</section>"


def next_commands(folder, kind: str, flags: dict) -> str:
    """What can be done with the run."""
    commands = [f'predict {folder} "a text"', f'view {folder} --text "a text"']
    if kind == "pretrain":
        masked = flags["objective"] == "masked"
        use = f'fill {folder} "The <mask> of"' if masked else f'generate {folder} "Return the"'
        commands = [use, commands[1], f"finetune --pretrained {folder}"]
    return "\n".join(f"python -m minilm {command}" for command in commands)
