"""`python -m minilm view`: write a page, say where it is."""

import webbrowser
from pathlib import Path

import numpy as np

import minilm
from minilm.cli import api
from minilm.cli.terminal import printable
from minilm.config import UserError
from minilm.corpora.tokens import prepare
from minilm.runs.durable import write_file
from minilm.view import classifier, recording
from minilm.view.pages import inside_page
from minilm.view.run_page import write_run_page


def view(run: str, text: str | None = None, open: bool = False, device: str = "auto") -> Path:
    """Write a run's page, view.html in its folder; or, of a run that predicts tokens and a text,
    the page inside.html. Returns its path. Raises UserError where the run or its data cannot be
    used."""
    config = (opened := api.open_run(run)).config
    task = config["flags"].get("task", "classify") if config["kind"] == "finetune" else None
    if task == "classify":
        path = write_run_page(opened, classifier.sections(minilm.load(run, device), text))
    elif text is None:
        path = write_run_page(opened)
    elif task in ("tag", "answer"):
        raise UserError(f"{run} learnt to {task}: leave --text out")
    else:
        path = write_inside_page(minilm.load(run, device), text)
    print(printable(f"{path}: {path.stat().st_size:,} bytes; open it in a browser"))
    if open:
        webbrowser.open(path.resolve().as_uri())
    return path


def write_inside_page(model, text: str) -> Path:
    """Write the page of a text inside a LanguageModel of cli/api.py; or inside a run that learnt to
    translate it, with the translation behind it."""
    shown, lm, more = text, model, {}
    if task := getattr(model, "task", None):
        lm = minilm.load(model.config["flags"]["pretrained"], model.device)
        pair = task.unlabelled(text)._replace(target=model.predict([text])[0])
        [row] = task.encode([pair])
        shown = np.concatenate([row.source, [model.tokenizer.special.eos], row.target])
        more = dict(prefix=len(row.source) + 2)
    known = model.model, model.tokenizer, shown, lm.shift, lm.objective, unigrams(lm)
    record = recording.inside(*known, **more)
    folder, size = model.opened.folder, f"{record['layers']} layers of {record['heads']} heads"
    about = f"{folder}: {lm.objective} objective, {size}, {model.tokenizer.vocab_size:,} tokens."
    write_file(folder / "inside.html", inside_page(about, record).encode("utf-8", "replace"))
    return folder / "inside.html"


def unigrams(model) -> np.ndarray | None:
    """The share of each token in the text that the run was trained on, (V,), if that is here."""
    flags, own = model.config["flags"], model.tokenizer
    if not flags.get("data"):  # imported weights
        return None
    source = flags["data"], flags["vocab_size"], own if flags["init"] else None
    try:
        text = prepare(*source, *map(flags.get, ("text_column", "encoding", "document_separator")))
    except UserError:
        return None
    if text.tokenizer.fingerprint != own.fingerprint:
        return None
    counts = np.bincount(text.train, minlength=own.vocab_size)
    return counts / counts.sum()
