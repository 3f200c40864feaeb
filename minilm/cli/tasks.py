"""`python -m minilm predict` and `evaluate` for runs that tag, answer or translate."""

import json
from pathlib import Path

from minilm.cli.terminal import printable
from minilm.config import UserError
from minilm.corpora.files import texts_in
from minilm.corpora.tasks import read, read_questions
from minilm.runs.answering import NO_ANSWER


def predict(model, text, question, file: Path | None, out, text_column, encoding, **_) -> None:
    """Print what the run makes of a text, or write what it makes of each text of a file."""
    answers = model.options.task == "answer"
    if not file:
        if answers and not question:
            raise UserError('this run answers questions: give a context and --question "..."')
        [found] = model.predict([(text, question)] if answers else [text])
        print(printable(_shown(found)))
        return
    if answers:
        texts = [(q.context, q.question) for q in read_questions(file, encoding)]
    else:
        texts = texts_in(file, text_column, encoding)
    out = out or file.with_name(file.name + ".predicted.jsonl")
    try:
        with out.open("x", encoding="utf-8", newline="\n") as lines:
            for text, found in zip(texts, model.predict(texts), strict=True):
                lines.write(json.dumps(_row(text, found), ensure_ascii=False) + "\n")
    except FileExistsError:
        raise UserError(f"{out} exists: move it, or name another file with --out") from None
    print(f"{len(texts):,} texts in {out}")


def _shown(found) -> str:
    if isinstance(found, list):
        return " ".join(word if tag == "O" else f"[{word} {tag}]" for word, tag in found)
    if isinstance(found, tuple):
        return f"{found.probability:6.1%}  {found.text or NO_ANSWER}  (character {found.start})"
    return found


def _row(text, found) -> dict:
    if isinstance(found, list):
        words, tags = zip(*found, strict=True)
        return {"words": words, "tags": tags}
    if isinstance(found, tuple):
        row = {"context": text[0], "question": text[1], "answer": found.text}
        return {**row, "answer_start": found.start, "probability": round(found.probability, 6)}
    return {"source": text, "target": found}


def evaluate(model, data: str | None, test: str | None) -> None:
    """Print the report on a file, on another corpus, or on the run's own test part."""
    task, options = model.task, model.options
    if data:
        options.data, options.train = data, None
    examples = {"test": read(options, Path(test))} if test else task.read()[0]
    part = "test" if "test" in examples else "valid"
    task.load({part: examples[part]}, task.classes)
    row = task.test(model.model)
    print(f"{part} part of {test or options.train or options.data}:")
    print(printable(task.report(row)))
    for key, heading, form in task.columns:
        print(f"  {heading:16} {form.format(row[key])}")
