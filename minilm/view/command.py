"""`python -m minilm view`: write a page, say where it is."""

import webbrowser
from pathlib import Path

import numpy as np

import minilm
from minilm.cli import api
from minilm.cli.terminal import printable
from minilm.config import UserError
from minilm.corpora.splits import splits
from minilm.corpora.tokens import prepare
from minilm.runs.durable import write_file
from minilm.view import classifier, recording
from minilm.view.pages import inside_page
from minilm.view.run_page import write_run_page

# The flags that say what was read: texts, or labelled texts.
TEXTS = ("text_column", "encoding", "document_separator")
LABELLED = "data", "train", "valid", "test", "labels", "seed", "text_column", "label_column"


def view(run: str, text: str | None = None, open: bool = False, device: str = "auto") -> Path:
    """Write a run's page, view.html in its folder; or, of a pretraining run and a text, the page
    inside.html. Returns its path. Raises UserError where the run or its data cannot be used."""
    config = (opened := api.open_run(run)).config
    classifies = config["kind"] == "finetune" and config["flags"].get("task") in (None, "classify")
    if text is None and not classifies:
        path = write_run_page(opened)
    elif config["kind"] == "finetune" and not classifies:
        raise UserError(f"{run} learnt to {config['flags']['task']}: leave --text out")
    else:
        path = (of_label if classifies else of_text)(minilm.load(run, device), text)
    print(printable(f"{path}: {path.stat().st_size:,} bytes; open it in a browser"))
    if open:
        webbrowser.open(path.resolve().as_uri())
    return path


def of_text(model, text: str) -> Path:
    """Write the page of a text inside a LanguageModel of cli/api.py."""
    record = recording.inside(
        model.model, model.tokenizer, text, model.shift, model.objective, unigrams(model)
    )
    folder, size = model.opened.folder, f"{record['layers']} layers of {record['heads']} heads"
    about = f"{folder}: {model.objective} objective, {size}, {model.tokenizer.vocab_size:,} tokens."
    page = inside_page(about, record).encode("utf-8", "replace")
    write_file(folder / "inside.html", page)
    return folder / "inside.html"


def of_label(model, text: str | None) -> Path:
    """Write the page of a Classifier: with a text, or with the texts that it was tested on."""
    if text is not None:
        return write_run_page(model.opened, classifier.of_text(model, text))
    flags = model.config["flags"]
    parts, _ = splits(**{name: flags[name] for name in LABELLED}, encoding=flags["encoding"])
    part = "test" if "test" in parts else "valid"
    more = classifier.of_examples(model, parts[part], f"{part.capitalize()} texts")
    return write_run_page(model.opened, more)


def unigrams(model) -> np.ndarray | None:
    """The share of each token in the text that the run was trained on, (V,), if that is here."""
    flags, own = model.config["flags"], model.tokenizer
    if not flags.get("data"):  # imported weights
        return None
    source = flags["data"], flags["vocab_size"], own if flags["init"] else None
    try:
        text = prepare(*source, *map(flags.get, TEXTS))
    except UserError:
        return None
    if text.tokenizer.fingerprint != own.fingerprint:
        return None
    counts = np.bincount(text.train, minlength=own.vocab_size)
    return counts / counts.sum()
