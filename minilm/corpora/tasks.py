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
    """Read a CoNLL column file (the word first, the tag last; tabs or spaces; a blank line ends a
    sentence; # begins a comment), or a .jsonl of {"words": [...], "tags": [...]}."""
    path = Path(path)
    check_exists(path)
    is_json = ending(path) in (".jsonl", ".ndjson")
    sentences = list((_tagged_rows if is_json else _conll_sentences)(path, encoding))
    if not sentences:
        raise UserError(f"{path}: no sentences: write a word and its tag a line, or .jsonl rows")
    return sentences


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


def _conll_sentences(path: Path, encoding: str) -> Iterator[Tagged]:
    words, tags, number = [], [], 0
    for number, line in enumerate(read_lines(path, encoding), 1):
        cells = line.rstrip("\r\n").split("\t") if "\t" in line.strip() else line.split()
        is_tagged = len(cells) > 1 and TAG.fullmatch(cells[-1].strip())
        if not line.strip() or line.startswith("-DOCSTART-"):
            if words:
                yield Tagged(tuple(words), bio(tags, f"{path}: the sentence before line {number}"))
            words, tags = [], []
        elif is_tagged and cells[0].strip():
            words.append(cells[0].strip())
            tags.append(cells[-1].strip())
        elif not line.startswith("#"):  # a comment; "#word O" is none
            raise UserError(
                f"{path}: line {number}: {line.strip()[:40]!r} is not a word, blanks or a tab, and "
                f"a tag (O, or B- or I- and a type): mend it"
            )
    if words:
        yield Tagged(tuple(words), bio(tags, f"{path}: the sentence before line {number + 1}"))


def _tagged_rows(path: Path, encoding: str) -> Iterator[Tagged]:
    for line, row in read_rows(path, {"words": "words", "tags": "tags"}, encoding):
        words, tags = row["words"], row["tags"]
        lists = isinstance(words, list) and isinstance(tags, list) and len(words) == len(tags) > 0
        if not lists or not all(isinstance(word, str) and word.strip() for word in words):
            raise UserError(
                f'{path}: line {line}: "words" and "tags" must be lists of one length, of words '
                f"that are not blank: mend the row"
            )
        yield Tagged(tuple(words), bio(tags, f"{path}: line {line}"))


def read_questions(path: Path | str, encoding: str = "utf-8") -> list[Question]:
    """Read SQuAD's .json, or a .jsonl of {"context", "question", "answer", "answer_start"}, to
    which "answers" may add what else is right. answer_start -1: the context holds no answer."""
    path = Path(path)
    check_exists(path)
    if ending(path) == ".json":
        rows = _squad_rows(path, encoding)
    else:
        columns = {"context": "context", "question": "question", "answer": "answer"}
        rows = ((f"line {n}", row) for n, row in read_rows(path, columns, encoding))
    return [_question(row, f"{path}: {place}") for place, row in rows]


def _squad_rows(path: Path, encoding: str) -> Iterator[tuple[str, dict]]:
    try:
        for article in json.loads(read_text(path, encoding))["data"]:
            for paragraph in article["paragraphs"]:
                for i, qa in enumerate(paragraph["qas"], 1):
                    answers = qa["answers"] or [{"text": "", "answer_start": -1}]
                    yield (
                        f"question {qa.get('id', i)}",
                        {
                            "context": paragraph["context"],
                            "question": qa["question"],
                            "answer": answers[0]["text"],
                            "answer_start": answers[0]["answer_start"],
                            "answers": [answer["text"] for answer in answers],
                        },
                    )
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not SQuAD's layout ({error!r}): mend it") from None


def _question(row: dict, place: str) -> Question:
    """Check a row, and find its answer: where it says, or else at the nearest other place."""
    context, question, answer = row["context"], row["question"], row["answer"]
    start, others = row.get("answer_start", 0), row.get("answers") or []
    if not all(isinstance(text, str) for text in (context, question, answer, *others)):
        raise UserError(f"{place}: context, question and answers must be texts: mend it")
    start = int(start) if isinstance(start, int | str) and str(start).lstrip("-").isdigit() else 0
    if start < 0 or not answer.strip():
        return Question(context, question, ("",), -1)
    if context[start : start + len(answer)] != answer:
        places = [match.start() for match in re.finditer(re.escape(answer), context)]
        if not places:
            raise UserError(f"{place}: the answer {answer[:40]!r} is not in its context: mend it")
        start = min(places, key=lambda there: abs(there - start))
    return Question(context, question, tuple(dict.fromkeys([answer, *others])), start)


def read_pairs(
    path: Path | str, source_column: str, target_column: str, encoding: str = "utf-8"
) -> list[Pair]:
    """Read the two columns of a .jsonl, .tsv or .csv; rows with a blank side are left out."""
    path = Path(path)
    check_exists(path)
    columns = {"--source-column": source_column, "--target-column": target_column}
    pairs = [
        Pair(text_of(row, source_column, path, line), text_of(row, target_column, path, line))
        for line, row in read_rows(path, columns, encoding)
    ]
    pairs = [pair for pair in pairs if pair.source.strip() and pair.target.strip()]
    if not pairs:
        raise UserError(f"{path}: no row with a text in both columns: choose other columns")
    return pairs


NAMED = {  # the first of each needs no download
    "tag": ("python-docs-tags", "wnut17", "stackoverflow-ner"),
    "answer": ("python-docs-answers", "qamr"),
    "translate": ("latex-sympy", "multi30k", "python-docs-zh"),
}
COLUMNS = {"multi30k": ("en", "de"), "python-docs-zh": ("en", "zh")}
FILES = {"train": ("train",), "valid": ("valid", "val", "dev"), "test": ("test",)}


def task_examples(config) -> dict[str, list]:
    """The "train", "valid" and (if there is one) "test" part of what the options name.

    A missing validation part is a tenth of train; with `labels` N, training and validation share N
    examples, chosen by the seed. What belongs together (the questions on a context, a sentence and
    its repetitions) stays on one side. Raises UserError where there is nothing to learn from."""
    if config.train:
        names = dict(train=config.train, valid=config.valid, test=config.test)
        parts = {part: read(config, Path(name)) for part, name in names.items() if name}
    elif config.data in NAMED[config.task]:
        parts = named_parts(config)
    else:
        names = ", ".join(NAMED[config.task])
        raise UserError(
            f"--data {config.data}: for --task {config.task} there are {names}, or --train FILE"
        )
    seed, pool = config.seed, parts["train"]
    if config.labels:
        pool = sorted(pool, key=lambda example: fraction(repr(example), f"labels {seed}"))
        if not 2 <= config.labels <= len(pool):
            raise UserError(f"--labels {config.labels}: give a number from 2 to {len(pool)}")
        pool, share = pool[: config.labels], 0.2
        parts.pop("valid", None)
    else:
        share = 0.0 if "valid" in parts else 0.1
    if share:
        chosen = sorted({_key(e) for e in pool}, key=lambda key: fraction(key, f"valid {seed}"))
        held = set(chosen[: max(1, round(share * len(chosen)))])
        parts["valid"] = [example for example in pool if _key(example) in held]
        pool = [example for example in pool if _key(example) not in held]
    if not pool:
        raise UserError("too few examples to hold some out: give more, or --valid")
    known = {_key(example) for example in pool}
    for part in sorted(parts.keys() - {"train"}):
        again = sum(_key(example) in known for example in parts[part])
        if again:
            note(f"{again} of the {len(parts[part])} examples in {part} are in train, too")
    return {**parts, "train": pool}


def _key(example) -> str:
    """What decides on which side an example is: its words, its context, or its source."""
    return normalised(" ".join(example[0]) if isinstance(example, Tagged) else example[0])


def read(config, path: Path) -> list:
    """The examples of a file, for the task that the options name."""
    if config.task == "tag":
        return read_tagged(path, config.encoding)
    if config.task == "answer":
        return read_questions(path, config.encoding)
    names = COLUMNS.get(config.data, ("source", "target"))
    columns = config.source_column or names[0], config.target_column or names[1]
    return read_pairs(path, *columns, config.encoding)


def named_parts(config) -> dict[str, list]:
    """The parts of a corpus known by name: made on this machine, or what lies in data/NAME."""
    if config.data == NAMED[config.task][0]:
        from minilm.corpora.made import load

        return load(config.data)
    parts, folder = {}, needed(config.data, DATA / config.data)
    for part, names in FILES.items():
        files = sorted(p for p in folder.iterdir() if p.name.startswith(names))
        if files:
            parts[part] = read(config, files[0])
    if "train" not in parts:  # of QAMR, the small development part is what is learnt from
        parts["train"] = parts.pop("valid", [])
    if not parts["train"]:
        raise UserError(f"{folder}: no file there begins with train: see data/README.md")
    return parts
