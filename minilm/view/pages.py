"""Pages in one file, without a server, a network, or a script but their own: a text inside the
model; and a run: how it learnt, what it said on the way, what it cost."""

import base64
import hashlib
import json
from pathlib import Path

import numpy as np

from minilm.io.durable import write_file
from minilm.view import charts
from minilm.view.charts import safe

POINTS, SAMPLES = 30, 12  # the most that is shown of each
LOSSES = {"causal_loss": "next token", "masked_loss": "masked token", "loss": "validation"}
SCORES = {"accuracy": "accuracy", "macro_f1": "macro F1", "f1": "F1", "exact": "exact"}


def text_of(name: str) -> str:
    """A file that lies beside this one."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def page(title: str, body: str, data: dict | None = None, script: str = "", refresh=0) -> str:
    """A page as HTML. `title` and `data` may hold anything; `body` is HTML; refresh: after so many
    seconds the browser reads it again.

    The page's policy lets nothing be loaded, and no script run but `script`, which is named by its
    hash: what a corpus or a model contributes stays text even where an escape were missing.
    """
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    again = f'<meta http-equiv="refresh" content="{refresh}">' if refresh else ""
    dumped = json.dumps(data, separators=(",", ":"), allow_nan=False)
    dumped = dumped.replace("<", "\\u003c")  # so nothing in it ends the element, or begins another
    added = f'<script type="application/json" id="data">{dumped}</script><script>{script}</script>'
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">{again}
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; base-uri 'none'; \
style-src 'unsafe-inline'; script-src 'sha256-{digest}'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{safe(title)}</title><style>{text_of("style.css")}{text_of("inside.css")}</style></head>\
<body><main>{body}</main>{added if script else ""}</body></html>
"""


def inside_page(about: str, record: dict) -> str:
    """The page about one text, from what `recording.inside` returns; `about`: which model it is."""
    cut = f"The text was cut: {record['left_out']:,} more tokens are not shown."
    cut = cut if record["left_out"] > 0 else ""
    body = text_of("inside.html").format(about=safe(about), left_out=cut)
    return page("A text inside the model", body, record, text_of("inside.js"))


def write_run_page(run, more: str = "") -> Path:
    """Write view.html into a run's folder, also while it trains; `more`: HTML to add. Returns its
    path."""
    config, lines, result = run.config, run.metrics(), run.result
    kind, flags, last = config["kind"], config["flags"], lines[-1] if lines else {"step": 0}
    state = "finished" if result else f"step {last['step']}, not finished"
    facts = [kind, flags.get("objective"), flags.get("size"), config["family"], state]
    evaluated = [line for line in lines if "score" in line]
    body = (
        f"<h1>{safe(run.folder)}</h1><p>{safe(', '.join(filter(None, facts)))}</p>"
        f"{learning(lines, evaluated, config.get('unigram_entropy'))}{more}"
        f"{samples([line for line in evaluated if line.get('sample')])}"
        f"{cost(last, config, result)}"
        f"<h2>Next</h2><pre>{safe(next_commands(run.folder, kind, flags))}</pre>"
    )
    html = page(f"{run.folder.name}: {kind}", body, refresh=0 if result else 20)
    path = run.folder / "view.html"
    write_file(path, html.encode("utf-8", "replace"))
    return path


def learning(lines: list[dict], evaluated: list[dict], unigram: float | None) -> str:
    """The curves: training, validation, what token frequencies alone reach, the best step."""
    if not lines:
        return "<p>Nothing is measured yet.</p>"
    trained = np.array([(line["step"], line["loss"]) for line in lines if "score" not in line])
    parts = np.array_split(trained, min(POINTS, len(trained)) or 1)
    means = [(int(part[-1, 0]), float(part[:, 1].mean())) for part in parts if len(part)]
    curves = [charts.Line("training", means, 7)] if means else []
    curves += _lines(evaluated, LOSSES)
    marks, said = [("unigrams", unigram)] if unigram else [], ""
    if evaluated:
        best, last = min(evaluated, key=lambda line: line["score"])["step"], evaluated[-1]["step"]
        heights = [y for line in curves for _, y in line.points] + [y for _, y in marks]
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
        charts.Line(label, [(line["step"], scale * line[name]) for line in evaluated], i)
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


def cost(last: dict, config: dict, result: dict) -> str:
    """What the run has taken so far, by the last line of metrics.jsonl, and with which flags."""
    tokens, seconds = last.get("tokens", 0), last.get("seconds", 0)
    rows = {"tokens seen": tokens, "seconds of training": seconds}
    rows["tokens a second"] = tokens / (seconds or 1)
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
    look, task = f'view {folder} --text "a text"', flags.get("task", "classify")
    if kind == "pretrain":
        masked = flags["objective"] == "masked"
        use = f'fill {folder} "The <mask> of"' if masked else f'generate {folder} "Return the"'
        commands = [use, look, f"finetune --pretrained {folder}"]
    else:
        ask = ' --question "What ...?"' * (task == "answer")
        commands = [
            f'predict {folder} "a text"{ask}',
            *[look] * (task in ("classify", "translate")),
        ]
    return "\n".join(f"python -m minilm {command}" for command in commands)
