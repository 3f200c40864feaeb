"""`python -m minilm evaluate`: how good a run is."""

import numpy as np

import minilm
from minilm import metrics
from minilm.cli import tasks
from minilm.cli.terminal import printable
from minilm.config import UserError
from minilm.corpora.files import read_examples
from minilm.corpora.splits import splits
from minilm.corpora.tokens import prepare
from minilm.data import evaluation_windows
from minilm.objectives import evaluation_batches
from minilm.runs.pretraining import in_chunks
from minilm.runs.report import report


def evaluate(
    run: str, data: str | None, test: str | None, text_column: str, label_column: str,
    encoding: str, device: str,
) -> None:  # fmt: skip
    """Print how good a run is: on `data`, on the file `test`, or else on its own data. Raises
    UserError where that cannot be."""
    model = minilm.load(run, device)
    flags = model.config["flags"]
    if hasattr(model, "task"):
        tasks.evaluate(model, data, test)
    elif model.config["kind"] == "finetune":
        if test:
            examples, name = read_examples(test, text_column, label_column, encoding), test
        else:
            own = dict(data=data) if data else {k: flags[k] for k in _SOURCE}
            parts, _ = splits(**own, labels=flags["labels"], seed=flags["seed"])
            part = "test" if "test" in parts else "valid"
            examples, name = parts[part], f"{part} part of {own['data'] or own['train']}"
        evaluate_classifier(model, examples, name)
    elif test:
        raise UserError(f"{run} learnt no labels to --test: give it a text with --data")
    else:
        own = ("text_column", "encoding", "document_separator")
        columns = (text_column, encoding) if data else map(flags.get, own)
        evaluate_language_model(model, [data] if data else flags["data"], *columns)


_SOURCE = ("data", "train", "valid", "test", "text_column", "label_column", "encoding")


def evaluate_language_model(model, data: list[str], *columns) -> None:
    """Print the losses on the validation part of a text, which is read as `prepare` does."""
    if not data:
        raise UserError(f"{model.run} was imported without its text: name one with --data")
    tokenizer = model.tokenizer
    text = prepare(data, tokenizer.vocab_size, tokenizer, *columns)
    windows = in_chunks(evaluation_windows(text.valid, model.max_length), 32)
    how = tokenizer.special, model.shift
    batches = (evaluation_batches(model.objective, w, i, *how) for i, w in enumerate(windows))
    values = metrics.evaluate_language_model(model.model, batches, tokenizer.token_bytes)
    print(f"validation part of {' '.join(data)}, losses in nats a token:")
    for name, value in {**values, "unigram_entropy": text.unigram_entropy}.items():
        print(f"  {name.replace('_', ' '):18}{value:.3f}")


def evaluate_classifier(model, examples: list, name: str) -> None:
    """Print the report on labelled texts. Raises UserError for a label that was never learnt."""
    classes = model.classes_.tolist()
    number = {label: i for i, label in enumerate(classes)}
    if unknown := sorted({example.label for example in examples} - set(classes)):
        raise UserError(f"{name} has the label {unknown[0]!r}, which this run never learnt: it "
                        f"knows {', '.join(classes[:8])}")  # fmt: skip
    labels = np.array([number[example.label] for example in examples])
    predicted = model.predict_proba([example.text for example in examples]).argmax(1)
    print(f"{name}:")
    confusion = metrics.confusion_matrix(labels, predicted, len(classes))
    print(printable(report(confusion, classes)))
