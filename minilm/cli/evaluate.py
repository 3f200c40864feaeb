"""`python -m minilm evaluate`: how good a run is."""

from minilm import metrics
from minilm.cli.terminal import printable
from minilm.config import UserError
from minilm.corpora.tokens import prepare
from minilm.data import evaluation_windows
from minilm.objectives import evaluation_batches
from minilm.runs.pretraining import in_chunks


def evaluate(model, data: str | None, test: str | None, **columns) -> None:
    """Print how good a run is: on `data`, on the file `test`, or else on its own data. columns:
    text_column, label_column and encoding of what is not its own. Raises UserError."""
    if not hasattr(model, "task"):
        if test:
            raise UserError(f"{model.run} learnt no labels to --test: give it a text with --data")
        own = map(model.config["flags"].get, ("text_column", "encoding", "document_separator"))
        how = (columns["text_column"], columns["encoding"]) if data else own
        return evaluate_language_model(model, data and [data], *how)
    task, config = model.task, model.task.config
    if test:
        vars(config).update(columns)
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
    if not (data := data or model.config["flags"].get("data")):
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
