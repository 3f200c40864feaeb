"""Examples for three more tasks: tags for words, questions with answers, pairs to translate.

Whatever can be wrong with a file raises UserError: one line with the path, the place in the file,
and what to do about it.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from minilm.config import UserError
from minilm.corpora.decoding import note, read_lines, read_text
from minilm.corpora.files import check_exists
from minilm.corpora.named import DATA, needed
from minilm.corpora.splitting import fraction, normalised
from minilm.corpora.tables import ending, read_rows, text_of

TAG = re.compile(r"O|[BIESLU]-\S+")
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
    ends a sentence; # begins a comment), or a .jsonl of {"words": [...], "tags": [...]}."""
    check_exists(path := Path(path))
    read_sentences = _tagged_rows if ending(path) in (".jsonl", ".ndjson") else _conll_sentences
    return [
        Tagged(tuple(words), bio(tags, f"{path}: {place}"))
        for place, words, tags in read_sentences(path, encoding)
        if words
    ]


def bio(tags: list[str], place: str) -> tuple[str, ...]:
    """Return tags as BIO: from BIOES and BILOU, and from the older way in which I- also begins.

    >>> bio(["I-per", "E-per", "O", "S-loc"], "here")
    ('B-per', 'I-per', 'O', 'B-loc')
    """
    result, before = [], "O"
    for tag in tags:
        if not isinstance(tag, str) or not TAG.fullmatch(tag):
            raise UserError(f"{place}: the tag {tag!r} is not O, nor B- or I- and a type")
        begins = tag[0] in "BSU" or before[2:] != tag[2:]
        before = tag if tag == "O" else ("B" if begins else "I") + tag[1:]
        result.append(before)
    return tuple(result)


def _conll_sentences(path: Path, encoding: str) -> Iterator[tuple[str, list, list]]:
    words, tags = [], []
    for number, line in enumerate([*read_lines(path, encoding), ""], 1):
        cells = [cell.strip() for cell in line.split("\t" if "\t" in line.strip() else None)]
        if not line.strip() or line.startswith("-DOCSTART-"):
            yield f"the sentence before line {number}", words, tags
            words, tags = [], []
        elif len(cells) > 1 and cells[0] and TAG.fullmatch(cells[-1]):
            words.append(cells[0])
            tags.append(cells[-1])
        elif not line.startswith("#"):  # a comment, unless it is "#word O"
            raise UserError(
                f"{path}: line {number}: {line.strip()[:40]!r} is not a word, blanks or a tab, and "
                f"a tag (O, or B- or I- and a type): mend it"
            )


def _tagged_rows(path: Path, encoding: str) -> Iterator[tuple[str, list, list]]:
    for line, row in read_rows(path, {"words": "words", "tags": "tags"}, encoding):
        words, tags = row["words"], row["tags"]
        lists = isinstance(words, list) and isinstance(tags, list) and len(words) == len(tags)
        if not lists or not all(isinstance(word, str) and word.strip() for word in words):
            raise UserError(
                f'{path}: line {line}: "words" and "tags" must be lists of one length, of words '
                f"that are not blank: mend the row"
            )
        yield f"line {line}", words, tags


def read_questions(path: Path | str, encoding: str = "utf-8") -> list[Question]:
    """Read SQuAD's .json, or a .jsonl of {"context", "question", "answer", "answer_start"}, to
    which "answers" may add what else is right. answer_start -1: the context holds no answer."""
    check_exists(path := Path(path))
    if ending(path) == ".json":
        rows = _squad_rows(path, encoding)
    else:
        columns = {name: name for name in ("context", "question", "answer")}
        rows = ((f"line {n}", row) for n, row in read_rows(path, columns, encoding))
    return [_question(row, f"{path}: {place}") for place, row in rows]


def _squad_rows(path: Path, encoding: str) -> Iterator[tuple[str, dict]]:
    try:
        for article in json.loads(read_text(path, encoding))["data"]:
            for paragraph in article["paragraphs"]:
                for i, qa in enumerate(paragraph["qas"], 1):
                    answers = qa["answers"] or [{"text": "", "answer_start": -1}]
                    row = dict(context=paragraph["context"], question=qa["question"])
                    row |= dict(answer=answers[0]["text"], answer_start=answers[0]["answer_start"])
                    row["answers"] = [answer["text"] for answer in answers]
                    yield f"question {qa.get('id', i)}", row
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


def read_pairs(
    path: Path | str, source_column: str, target_column: str, encoding: str = "utf-8"
) -> list[Pair]:
    """Read the two columns of a .jsonl, .tsv or .csv; rows with a blank side are left out."""
    check_exists(path := Path(path))
    columns = {"--source-column": source_column, "--target-column": target_column}
    rows = (
        Pair(*(text_of(row, column, path, line) for column in columns.values()))
        for line, row in read_rows(path, columns, encoding)
    )
    return [pair for pair in rows if pair.source.strip() and pair.target.strip()]


def read(config, path: Path) -> list:
    """The examples of a file, for the task that the options name. Raises UserError where it has
    none."""
    if config.task == "translate":
        names = COLUMNS.get(config.data, ("source", "target"))
        columns = config.source_column or names[0], config.target_column or names[1]
        if ending(path) in [f".{column}" for column in columns]:  # a file a language
            files = (path.with_name(path.name.replace(ending(path), f".{c}")) for c in columns)
            sides = ([line.strip() for line in read_lines(file, config.encoding)] for file in files)
            found = [Pair(*pair) for pair in zip(*sides, strict=False) if all(pair)]
        else:
            found = read_pairs(path, *columns, config.encoding)
    else:
        reader = read_tagged if config.task == "tag" else read_questions
        found = reader(path, config.encoding)
    if not found:
        raise UserError(f"{path}: it has no examples: give another file")
    return found


def task_examples(config) -> dict[str, list]:
    """The "train", "valid" and (if there is one) "test" part of what the options name.

    A missing validation part is a tenth of train; with `labels` N, training and validation share N
    examples, chosen by the seed. What belongs together (the questions on a context, a sentence and
    its repetitions) stays on one side. Raises UserError where there is nothing to learn from."""
    parts = {}
    if config.train:
        names = dict(train=config.train, valid=config.valid, test=config.test)
        parts = {part: read(config, Path(name)) for part, name in names.items() if name}
    elif config.data not in NAMED[config.task]:
        names = ", ".join(NAMED[config.task])
        raise UserError(
            f"--data {config.data}: for --task {config.task} there are {names}, or --train FILE"
        )
    elif config.data == NAMED[config.task][0]:
        from minilm.corpora.made import load

        parts = load(config.data)
    else:
        files = sorted(needed(config.data, DATA / config.data).iterdir())
        for part, begins in FILES.items():
            for file in [file for file in files if file.name.startswith(begins)][:1]:
                parts[part] = read(config, file)
        if "train" not in parts:  # of QAMR, the smaller development part is what is learnt from
            parts["train"] = parts.pop("valid", [])
    pool, share = parts["train"], 0.0 if "valid" in parts else 0.1
    if config.labels:
        if not 2 <= config.labels <= len(pool):
            raise UserError(f"--labels {config.labels}: give a number from 2 to {len(pool)}")
        order = f"labels {config.seed}"
        pool = sorted(pool, key=lambda example: fraction(repr(example), order))[: config.labels]
        share = 0.2
    if share:
        order = f"validation {config.seed}"
        keys = sorted({_key(example) for example in pool}, key=lambda key: fraction(key, order))
        held = set(keys[: max(1, round(share * len(keys)))])
        parts["valid"] = [example for example in pool if _key(example) in held]
        pool = [example for example in pool if _key(example) not in held]
    if not pool:
        raise UserError("too few examples to train on some and hold some out: give more")
    known, parts["train"] = {_key(example) for example in pool}, pool
    for part in sorted(parts.keys() - {"train"}):
        if again := sum(_key(example) in known for example in parts[part]):
            note(f"{again} of the {len(parts[part])} examples in {part} are in train, too")
    return parts


def _key(example) -> str:
    """What decides on which side an example is: its words, its context, or its source."""
    return normalised(" ".join(example[0]) if isinstance(example, Tagged) else example[0])
