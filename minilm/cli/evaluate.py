"""`python -m minilm predict` and `evaluate`: what a run makes of texts, and how good it is."""

import json
from pathlib import Path

from tqdm import tqdm

from minilm import metrics
from minilm.cli.terminal import printable
from minilm.config import UserError
from minilm.corpora.tokens import prepare
from minilm.data import evaluation_windows
from minilm.objectives import evaluation_batches
from minilm.runs.pretraining import in_chunks

CHUNK = 512  # texts between two moves of the bar


def predict(
    model, text: str | None, question: str | None, file: Path | None, out: Path | None,
    text_column: str, encoding: str,
) -> None:  # fmt: skip
    """Print what a fine-tuned run makes of a text, or write what it makes of each text of a file.
    Raises UserError where that cannot be."""
    task = model.task
    if not file:
        if task.config.task == "answer":
            if not question:
                raise UserError('this run answers questions: give a context and --question "..."')
            text = text, question
        [found] = task.predict(model.model, [text])
        return print(printable(task.told(text, found)[0]))
    texts = task.texts_in(file, text_column, encoding)
    out = out or file.with_name(file.name + ".predicted.jsonl")
    if out.suffix != ".jsonl":
        raise UserError(f"--out {out}: the name must end in .jsonl")
    try:
        lines = out.open("x", encoding="utf-8", newline="\n")
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror}): give --out") from None
    with lines, tqdm(total=len(texts), unit=" texts", disable=None) as bar:
        for some in (texts[i : i + CHUNK] for i in range(0, len(texts), CHUNK)):
            for text, found in zip(some, task.predict(model.model, some), strict=True):
                lines.write(json.dumps(task.told(text, found)[1], ensure_ascii=False) + "\n")
            bar.update(len(some))
    print(f"{len(texts):,} texts in {out}")


def evaluate(
    model, data: str | None, test: str | None, text_column: str, label_column: str, encoding: str
) -> None:
    """Print how good a run is: on `data`, on the file `test`, or else on its own data. Raises
    UserError where that cannot be."""
    if not hasattr(model, "task"):
        if test:
            raise UserError(f"{model.run} learnt no labels to --test: give it a text with --data")
        if data:
            return evaluate_language_model(model, [data], text_column, encoding)
        own = "data", "text_column", "encoding", "document_separator"
        return evaluate_language_model(model, *map(model.config["flags"].get, own))
    task, config = model.task, model.task.config
    if test:
        vars(config).update(text_column=text_column, label_column=label_column, encoding=encoding)
    elif data:
        config.data, config.train = data, None
    task.load_tested(test)
    row = task.test(model.model)
    print(f"{task.part} part of {test or config.train or config.data}:")
    print(printable(task.report(row)))
    for key, heading, form in task.columns:
        print(f"  {heading:16} {form.format(row[key])}")
    return None


def evaluate_language_model(model, data: list[str] | None, *columns) -> None:
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
