"""`python -m minilm view`: write a page, say where it is."""

import webbrowser
from pathlib import Path

import numpy as np

import minilm
from minilm.cli.terminal import escaped, printable
from minilm.config import UserError
from minilm.corpora.splits import splits
from minilm.corpora.tokens import prepare
from minilm.runs.durable import write_file
from minilm.runs.run import Run
from minilm.view import classifier, recording, run_page
from minilm.view.pages import inside_page

SOURCE = [
    "data",
    "train",
    "valid",
    "test",
    "labels",
    "seed",
    "text_column",
    "label_column",
    "encoding",
]


def view(run: str, text: str | None = None, open: bool = False, device: str = "auto") -> Path:
    """Write a run's page, view.html in its folder; or, of a pretraining run and a text, the page
    inside.html. Returns its path. Raises UserError where the run or its data cannot be used."""
    if text is None and not run.startswith("hf:") and Run(run).config["kind"] == "pretrain":
        path = run_page.write_run_page(Run(run))
    else:
        path = _of_model(minilm.load(run, device), text)
    print(printable(f"{path}: {path.stat().st_size:,} bytes; open it in a browser"))
    if open:
        webbrowser.open(path.resolve().as_uri())
    return path


def _of_model(model, text: str | None) -> Path:
    """The pages that need the weights."""
    flags = model.config["flags"]
    if hasattr(model, "predict"):
        if text is not None:
            return run_page.write_run_page(model.opened, classifier.of_text(model, text))
        parts, _ = splits(**{name: flags[name] for name in SOURCE})
        part = "test" if "test" in parts else "valid"
        more = classifier.of_examples(model, parts[part], f"{part.capitalize()} texts")
        return run_page.write_run_page(model.opened, more)
    if text is None:
        return run_page.write_run_page(model.opened)
    record = recording.inside(
        model.model, model.tokenizer, text, model.shift, model.objective, _unigrams(model)
    )
    shape, folder = model.model.config, model.opened.folder
    about = (
        f"{folder}: {model.objective} objective, {shape.n_layers} layers of {shape.n_heads} heads, "
        f"{shape.vocab_size:,} tokens in the vocabulary."
    )
    page = inside_page(f"{folder.name}: a text inside the model", escaped(about), record)
    write_file(folder / "inside.html", page.encode("utf-8", "replace"))
    return folder / "inside.html"


def _unigrams(model) -> np.ndarray | None:
    """The share of each token in the text that the run was trained on, (V,), if that is here."""
    flags = model.config["flags"]
    names = ("text_column", "encoding", "document_separator")
    own = model.tokenizer if flags["init"] else None
    try:
        text = prepare(flags["data"], flags["vocab_size"], own, *map(flags.get, names))
    except UserError:
        return None
    if text.tokenizer.fingerprint != model.tokenizer.fingerprint:
        return None
    counts = np.bincount(text.train, minlength=model.model.config.vocab_size)
    return counts / counts.sum()
