"""A run on one page: how it learnt, what it said on the way, what it cost."""

import json
from html import escape

import numpy as np

from minilm.cli.terminal import escaped
from minilm.runs.durable import write_file
from minilm.view import charts
from minilm.view.pages import page

POINTS, SAMPLES = 50, 12  # the most that is shown of each
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
    facts.append(
        "finished" if result else f"step {lines[-1]['step'] if lines else 0}, not finished"
    )
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
