"""Examples for three more tasks: tags for words, questions with answers, pairs to translate.
Whatever is wrong with a file raises UserError: its path, the place in it, and what to do."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from minilm.config import UserError
from minilm.corpora import needed
from minilm.corpora.files import fraction, normalised, read_text, text_of
from minilm.corpora.splits import HELD_OUT, note_repeats
from minilm.corpora.tables import ending, read_lines, read_rows

TAG = re.compile(r"O|[BI]-\S+")
NAMED = {  # the first of each is made on this machine, the others lie in data/NAME
    "tag": ("python-docs-tags", "wnut17", "stackoverflow-ner"),
    "answer": ("python-docs-answers", "qamr"),
    "translate": ("latex-sympy", "multi30k", "python-docs-zh"),
}
COLUMNS = {"multi30k": ("en", "de"), "python-docs-zh": ("en", "zh")}
FILES = {"train": ("train",), "valid": ("valid", "val", "dev"), "test": ("test",)}


class Tagged(NamedTuple):
    """A sentence: its words, and a tag for each: O, or B- or I- and a type."""

    words: tuple[str, ...]
    tags: tuple[str, ...]


class Question(NamedTuple):
    """A question about a context. start is where answers[0] begins, or -1: no answer there."""

    context: str
    question: str
    answers: tuple[str, ...]
    start: int


class Pair(NamedTuple):
    """A text, and its translation."""

    source: str
    target: str


def read_tagged(path: Path | str, encoding: str = "utf-8") -> list[Tagged]:
    """Read a CoNLL column file (the word first, the tag last; tabs or blanks between; a blank line
    ends a sentence; # begins a comment), or a .jsonl of {"words": [...], "tags": [...]}. An I- tag
    that goes on with nothing is read as B-."""
    if ending(path := Path(path)) in (".jsonl", ".ndjson"):
        rows = read_rows(path, {"words": "words", "tags": "tags"}, encoding)
        tagged = (_tagged(row["words"], row["tags"], place) for place, row in rows)
        return [sentence for sentence in tagged if sentence.words]
    sentences = [([], [])]
    for number, line in enumerate(read_lines(path, encoding), 1):
        cells = [cell.strip() for cell in line.split("\t" if "\t" in line.strip() else None)]
        if not line.strip() or line.startswith("-DOCSTART-"):
            sentences.append(([], []))
        elif len(cells) > 1 and cells[0] and TAG.fullmatch(cells[-1]):
            sentences[-1][0].append(cells[0])
            sentences[-1][1].append(cells[-1])
        elif not line.startswith("#"):  # a comment, unless it is "#word O"
            raise UserError(f"{path}: line {number}: {line.strip()[:40]!r} is no word and "
                            f"then, after a blank, a tag (O, B-type, I-type): mend it")  # fmt: skip
    return [_tagged(*sentence, str(path)) for sentence in sentences if sentence[0]]


def _tagged(words: list, tags: list, place: str) -> Tagged:
    lists = isinstance(words, list) and isinstance(tags, list) and len(words) == len(tags)
    if not lists or not all(isinstance(word, str) and word.strip() for word in words):
        raise UserError(f'{place}: "words" and "tags" must be lists of one length: mend the row')
    if wrong := [tag for tag in tags if not TAG.fullmatch(str(tag))]:
        raise UserError(f"{place}: the tag {wrong[0]!r} is not O, B-type or I-type: mend it")
    bio = [f"B{tag[1:]}" if tag[0] == "I" and tag[2:] != before[2:] else tag
           for before, tag in zip(["O", *tags], tags, strict=False)]  # fmt: skip
    return Tagged(tuple(words), tuple(bio))


def read_questions(path: Path | str, encoding: str = "utf-8") -> list[Question]:
    """Read SQuAD's .json, or a .jsonl of {"context", "question", "answer", "answer_start"}, to
    which "answers" may add what else is right. answer_start -1: the context holds no answer."""
    columns = {name: name for name in ("context", "question", "answer")}
    squad = ending(path := Path(path)) == ".json"
    rows = _squad_rows(path, encoding) if squad else read_rows(path, columns, encoding)
    return [_question(row, place) for place, row in rows]


def _squad_rows(path: Path, encoding: str) -> Iterator[tuple[str, dict]]:
    try:
        articles = json.loads(read_text(path, encoding))["data"]
        for paragraph in (paragraph for article in articles for paragraph in article["paragraphs"]):
            for i, qa in enumerate(paragraph["qas"], 1):
                answers = qa["answers"] or [{"text": "", "answer_start": -1}]
                row = dict(context=paragraph["context"], question=qa["question"], **answers[0])
                row |= dict(answer=row["text"], answers=[answer["text"] for answer in answers])
                yield f"{path}: question {qa.get('id', i)}", row
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not SQuAD's layout ({error!r}): mend it") from None


def _question(row: dict, place: str) -> Question:
    """Check a row, and find its answer: where it says, or else at the nearest other place."""
    context, question, answer = row["context"], row["question"], row["answer"]
    start, others = row.get("answer_start", 0), row.get("answers") or []
    if not all(isinstance(text, str) for text in (context, question, answer, *others)):
        raise UserError(f"{place}: context, question and answers must be texts: mend it")
    start = int(start) if re.fullmatch(r"-?\d+", str(start)) else 0
    if start < 0 or not answer.strip():
        return Question(context, question, ("",), -1)
    places = [match.start() for match in re.finditer(f"(?={re.escape(answer)})", context)]
    if not places:
        raise UserError(f"{place}: the answer {answer[:40]!r} is not in its context: mend it")
    start = min(places, key=lambda there: abs(there - start))
    return Question(context, question, tuple(dict.fromkeys([answer, *others])), start)


def read_pairs(path: Path, source_column: str, target_column: str, encoding="utf-8") -> list[Pair]:
    """Read the two columns of a table, or the lines of two files, one a language, that end in
    their names; pairs with a blank side are left out."""
    columns = {"--source-column": source_column, "--target-column": target_column}
    if ending(path) in (f".{column}" for column in columns.values()):
        files = (path.with_name(path.name.replace(ending(path), f".{c}")) for c in columns.values())
        sides = ([line.strip() for line in read_lines(file, encoding)] for file in files)
        pairs = map(Pair, *sides)
    else:
        rows = read_rows(path, columns, encoding)
        pairs = (Pair(*(text_of(row, c, place) for c in columns.values())) for place, row in rows)
    return [pair for pair in pairs if pair.source.strip() and pair.target.strip()]


def read(config, path: Path) -> list:
    """The examples of a file, for the task that the options name. Raises UserError where it has
    none."""
    if config.task == "translate":
        source, target = COLUMNS.get(config.data, Pair._fields)
        columns = config.source_column or source, config.target_column or target
        found = read_pairs(path, *columns, config.encoding)
    else:
        found = (read_tagged if config.task == "tag" else read_questions)(path, config.encoding)
    if not found:
        raise UserError(f"{path}: it has no examples: give another file")
    return found


def task_examples(config) -> dict[str, list]:
    """The "train", "valid" and (if there is one) "test" part of what the options name. Without
    "valid" a tenth of train is held out; with `labels` N, the two share N examples, drawn by the
    seed. What belongs together (the questions on a context, a sentence and its repetitions) stays
    on one side. Raises UserError where there is nothing to learn from."""
    named = NAMED[config.task]
    if config.train:
        files = dict(train=config.train, valid=config.valid, test=config.test)
        parts = {part: read(config, Path(file)) for part, file in files.items() if file}
    elif config.data == named[0]:
        from minilm.corpora.made import load

        parts = load(config.data)
    elif config.data in named:
        there = sorted(needed(config.data).iterdir())
        first = lambda begins: [file for file in there if file.name.startswith(begins)][:1]
        parts = {part: read(config, f) for part, begins in FILES.items() for f in first(begins)}
        if "train" not in parts:  # of QAMR, the smaller development part is what is learnt from
            parts["train"] = parts.pop("valid", [])
    else:
        raise UserError(f"--data {config.data}: for --task {config.task} there are "
                        f"{', '.join(named)}, or --train FILE")  # fmt: skip
    pool, share = parts["train"], 0.0 if "valid" in parts else HELD_OUT
    if config.labels:
        if not 2 <= config.labels <= len(pool):
            raise UserError(f"--labels {config.labels}: give a number from 2 to {len(pool)}")
        order = f"labels {config.seed}"
        pool = sorted(pool, key=lambda example: fraction(repr(example), order))[: config.labels]
        share = 0.2
    if share:
        order = f"validation {config.seed}"
        keys = sorted(set(map(_key, pool)), key=lambda key: fraction(key, order))
        held = set(keys[: max(1, round(share * len(keys)))])
        parts["valid"] = [example for example in pool if _key(example) in held]
        pool = [example for example in pool if _key(example) not in held]
    if not pool:
        raise UserError("too few examples to train on some and hold some out: give more")
    parts["train"] = pool
    note_repeats(parts, _key)
    return parts


def _key(example) -> str:
    """What decides on which side an example is: its words, its context, or its source."""
    return normalised(" ".join(example[0]) if isinstance(example, Tagged) else example[0])
