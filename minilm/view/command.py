"""`python -m minilm view`: write a page, say where it is."""

import webbrowser
from pathlib import Path

import numpy as np

import minilm
from minilm.cli.terminal import printable
from minilm.config import UserError
from minilm.corpora.splits import splits
from minilm.corpora.tokens import prepare
from minilm.runs.durable import write_file
from minilm.view import classifier, recording
from minilm.view.pages import inside_page
from minilm.view.run_page import write_run_page

TEXTS = ("text_column", "encoding", "document_separator")  # flags that say what was read
LABELLED = ("data", "train", "valid", "test", "labels", "seed", "text_column", "label_column",
            "encoding")  # fmt: skip


def view(run: str, text: str | None = None, open: bool = False, device: str = "auto") -> Path:
    """Write a run's page, view.html in its folder; or, of a pretraining run and a text, the page
    inside.html. Returns its path. Raises UserError where the run or its data cannot be used."""
    model = minilm.load(run, device)
    flags, folder = model.config["flags"], model.opened.folder
    if hasattr(model, "predict") and text is not None:
        path = write_run_page(model.opened, classifier.of_text(model, text))
    elif hasattr(model, "predict"):
        parts, _ = splits(**{name: flags[name] for name in LABELLED})
        part = "test" if "test" in parts else "valid"
        more = classifier.of_examples(model, parts[part], f"{part.capitalize()} texts")
        path = write_run_page(model.opened, more)
    elif text is None:
        path = write_run_page(model.opened)
    else:
        how = model.shift, model.objective, unigrams(model)
        record = recording.inside(model.model, model.tokenizer, text, *how)
        about = (
            f"{folder}: {model.objective} objective, {record['layers']} layers of "
            f"{record['heads']} heads, {model.tokenizer.vocab_size:,} tokens in the vocabulary."
        )
        page, path = inside_page(about, record), folder / "inside.html"
        write_file(path, page.encode("utf-8", "replace"))
    print(printable(f"{path}: {path.stat().st_size:,} bytes; open it in a browser"))
    if open:
        webbrowser.open(path.resolve().as_uri())
    return path


def unigrams(model) -> np.ndarray | None:
    """The share of each token in the text that the run was trained on, (V,), if that is here."""
    flags, own = model.config["flags"], model.tokenizer
    try:
        learnt_elsewhere = own if flags["init"] else None
        source = flags["data"], flags["vocab_size"], learnt_elsewhere
        text = prepare(*source, *map(flags.get, TEXTS))
    except UserError:
        return None
    if text.tokenizer.fingerprint != own.fingerprint:
        return None
    counts = np.bincount(text.train, minlength=own.vocab_size)
    return counts / counts.sum()
