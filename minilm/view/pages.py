"""Pages in one file, without a server, a network, or a script but their own: a text inside the
model; and a run: how it learnt, what it said on the way, what it cost."""

import base64
import hashlib
import json
from pathlib import Path

import numpy as np

from minilm.config import SIZES
from minilm.io.durable import write_file
from minilm.view import charts

POINTS, SAMPLES = 30, 12  # the most that is shown of each
LOSSES = {"causal_loss": "next token", "masked_loss": "masked token", "loss": "validation"}
SCORES = {"accuracy": "accuracy", "macro_f1": "macro F1", "f1": "F1", "exact": "exact"}


def text_of(name: str) -> str:
    """A file that lies beside this one."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def write_page(path: Path, template: str, title: str, data: dict | None = None, **values) -> Path:
    """Write a page. `title`, `data` and the values may hold anything; `data` is what the scripts
    of a text inside the model draw. Returns its path.

    The page's policy lets nothing be loaded, and no script run but these, which are named by their
    hash: what a corpus or a model contributes stays text even where an escape were missing."""
    parts = {"page": "inside recorded"} if data else {}
    parts = {"model": "model live", "page": "inside asked"} if values.get("live") else parts
    scripts = {k: "".join(text_of(f"{part}.js") for part in v.split()) for k, v in parts.items()}
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts.values())
    hashes = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    dumped = json.dumps(data, separators=(",", ":"), allow_nan=False)
    values |= dict(
        title=title, scripts=scripts, hashes=hashes or "'none'",
        data=dumped.replace("<", "\\u003c"),  # so nothing in it ends the element, or begins another
        style=text_of("style.css") + text_of("inside.css"),
    )  # fmt: skip
    write_file(path, charts.render(f"view/{template}", **values).encode("utf-8", "replace"))
    return path


def write_run_page(run, **more) -> Path:
    """Write view.html into a run's folder, also while it trains; `more`: `tested` or `text` of
    run.html. Returns its path."""
    config, lines, result = run.config, run.metrics(), run.result
    kind, flags, last = config["kind"], config["flags"], lines[-1] if lines else {"step": 0}
    state = "finished" if result else f"step {last['step']}, not finished"
    evaluated = [line for line in lines if "score" in line]
    return write_page(
        run.folder / "view.html", "run.html", f"{run.folder.name}: {kind}",
        facts=[kind, *map(flags.get, ("task", "objective", "size")), config["family"], state],
        **learning(lines, evaluated, config.get("unigram_entropy"), default_run(kind, flags)),
        samples=samples([line for line in evaluated if line.get("sample")]),
        cost=cost(last, config, result), flags=flags, result=result, refresh=0 if result else 20,
        folder=str(run.folder), commands=next_commands(run.folder, kind, flags), **more,
    )  # fmt: skip


def default_run(kind: str, flags: dict) -> list[charts.Line]:
    """The curves of the default pretraining, as measured once, beside a run whose losses are
    comparable: of the same text and vocabulary."""
    comparable = ["python-docs"], SIZES["tiny"]["vocab_size"]
    if kind != "pretrain" or (flags.get("data"), flags.get("vocab_size")) != comparable:
        return []
    steps, *losses = zip(*json.loads(text_of("default_run.json")), strict=True)
    names = "default run: next token", "default run: masked token"
    points = (list(zip(steps, of_loss, strict=True)) for of_loss in losses)
    return list(map(charts.Line, names, points, (5, 6)))


def learning(lines: list[dict], evaluated: list[dict], unigram: float | None, beside=()) -> dict:
    """The curves: training, validation, those `beside` them, what token frequencies alone reach,
    the best step."""
    if not lines:
        return dict(best=None)
    trained = np.array([(line["step"], line["loss"]) for line in lines if "score" not in line])
    parts = np.array_split(trained, min(POINTS, len(trained)) or 1)
    means = [(int(part[-1, 0]), float(part[:, 1].mean())) for part in parts if len(part)]
    curves = [charts.Line("training", means, 7)] if means else []
    curves += [*_lines(evaluated, LOSSES), *beside]
    marks, best = [("unigrams", unigram)] if unigram else [], None
    if evaluated:
        best = min(evaluated, key=lambda line: line["score"])["step"]
        heights = [y for line in curves for _, y in line.points] + [y for _, y in marks]
        upright = best, min(heights), min(heights), max(heights)
        curves.append(charts.Line(f"best: step {best}", [upright], 3))
    note = "nats a target; training: means of neighbouring steps; validation: text held out"
    loss, right = charts.curves("Loss", note, curves, "steps", marks=marks), ""
    once = len(evaluated) == 1
    if not once and (scores := _lines(evaluated, SCORES, 100)):
        note = "share of the validation texts"
        right = charts.curves("Right", note, scores, "steps", unit=" %")
    return dict(
        loss=loss, right=right, best=best, once=once, last=evaluated[-1]["step"] if evaluated else 0
    )


def _lines(evaluated: list[dict], names: dict[str, str], scale: float = 1) -> list[charts.Line]:
    """A line for each of the values that the evaluations have."""
    return [
        charts.Line(label, [(line["step"], scale * line[name]) for line in evaluated], i)
        for i, (name, label) in enumerate(names.items())
        if evaluated and name in evaluated[0]
    ]


def samples(there: list[dict]) -> list[tuple[int, str]]:
    """What the model made of one validation text, as it learnt: (step, text)."""
    some = np.unique(np.linspace(0, len(there) - 1, SAMPLES).round().astype(int)) if there else []
    lines = lambda text: "\n".join(map(str.strip, text.strip().splitlines()))
    return [(there[i]["step"], lines(there[i]["sample"])) for i in some]


def cost(last: dict, config: dict, result: dict) -> dict[str, float]:
    """What the run has taken so far, by the last line of metrics.jsonl."""
    tokens, seconds = last.get("tokens", 0), last.get("seconds", 0)
    rows = {"tokens seen": tokens, "seconds of training": seconds}
    rows["tokens a second"] = tokens / (seconds or 1)
    if config.get("train_tokens"):
        rows["times the text was read"] = tokens / config["train_tokens"]
    done = [name for name in ("parameters", "flops_per_second") if name in result]
    rows |= {name.replace("_", " "): result[name] for name in done}
    return rows | {name: config["model"][name] for name in ("n_layers", "d_model", "max_length")}


def next_commands(folder, kind: str, flags: dict) -> str:
    """What can be done with the run."""
    look, task = f"view {folder} --live", flags.get("task", "classify")
    if kind == "pretrain":
        masked = flags["objective"] == "masked"
        use = f'fill {folder} "The <mask> of"' if masked else f'generate {folder} "Return the"'
        commands = [use, look, f"finetune --pretrained {folder}"]
    else:
        ask = ' --question "What ...?"' * (task == "answer")
        look = [look] * (task in ("classify", "translate"))
        commands = [f'predict {folder} "a text"{ask}', *look]
    return "\n".join(f"python -m minilm {command}" for command in commands)
