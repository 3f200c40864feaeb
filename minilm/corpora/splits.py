"""Labelled data, the same for the four tasks: loaded, and divided into training, validation, test.

What a person can name by --data is a table; everything else is a file."""

import zlib
from collections import Counter
from pathlib import Path

from minilm import corpora
from minilm.config import UserError
from minilm.corpora import files, made, python_docs
from minilm.corpora.files import Example, Tagged, fraction, normalised
from minilm.corpora.tables import note

MISSING = {"nan", "na", "n/a", "none", "null"}  # how other programs write that there is no label
NAMED = {  # of each task; None: in files of data/NAME
    "classify": {
        "python-docs": python_docs.labelled,
        "python-docs-whole": lambda: python_docs.labelled(whole=True),
        "imdb": corpora.imdb, "sms-spam": corpora.sms_spam,
    },
    "tag": {
        "python-docs-tags": lambda: made.tags(python_docs.load()),
        "wnut17": None, "stackoverflow-ner": None,
    },
    "answer": {"python-docs-answers": lambda: made.answers(python_docs.load()), "qamr": None},
    "translate": {"latex-sympy": made.formulas, "multi30k": None, "python-docs-zh": None},
}  # fmt: skip
COLUMNS = {"multi30k": ("en", "de"), "python-docs-zh": ("en", "zh")}
FILES = {"train": ("train",), "valid": ("valid", "val", "dev"), "test": ("test",)}


def load(config) -> dict[str, list]:
    """The examples of "train", and of "valid" and "test" where these are given, of the corpus or of
    the files that the options name. Raises UserError for what cannot be read or learnt."""
    named = NAMED[config.task]
    if config.train:
        given = dict(train=config.train, valid=config.valid, test=config.test)
        parts = {part: read(config, Path(file)) for part, file in given.items() if file}
    elif config.data not in named:
        raise UserError(f"--data {config.data}: for --task {config.task} choose "
                        f"{', '.join(named)}, or give --train FILE")  # fmt: skip
    elif named[config.data]:
        parts = dict(named[config.data]())
    else:
        there = sorted(corpora.needed(config.data).iterdir())
        first = lambda begins: [file for file in there if file.name.startswith(begins)][:1]
        parts = {part: read(config, f) for part, begins in FILES.items() for f in first(begins)}
        if "train" not in parts:  # of QAMR, the smaller development part is what is learnt from
            parts["train"] = parts.pop("valid", [])
    if config.task == "classify":
        _check_labels(parts, str(config.train or config.data))
    return parts


def read(config, path: Path) -> list:
    """The examples of a file, one at least, for the task that the options name."""
    if config.task == "translate":
        found = files.read_pairs(path, *columns_of(config), config.encoding)
    elif config.task == "classify":
        columns = config.text_column, config.label_column
        found = files.read_examples(path, *columns, config.encoding)
    else:
        reader = files.read_tagged if config.task == "tag" else files.read_questions
        found = reader(path, config.encoding)
    if not found:
        raise UserError(f"{path}: it has no examples: give another file")
    return found


def columns_of(config) -> tuple[str, str]:
    """Where a table of two languages has its sources and its targets."""
    source, target = COLUMNS.get(config.data, files.Pair._fields)
    return config.source_column or source, config.target_column or target


def divide(
    parts: dict[str, list], labels: int | None = None, seed: int = 0, balanced: bool = False
) -> dict[str, list]:
    """The parts with one to validate on: where there is none, a tenth of train. With `labels`, the
    two share so many examples, each once, drawn at random by the seed (balanced: as many of each
    label as there are), a fifth of them to validate on. What belongs together (the questions on a
    context, a sentence and its repetitions) stays on one side. The texts alone decide, not their
    order, and a smaller draw of a seed is, on both sides, a part of a larger one. Raises UserError
    where there are too few."""
    train, valid = parts["train"], parts.get("valid")
    if labels is not None:
        train, others = (_in_order(some, seed, True, balanced) for some in (train, valid or []))
        if not 2 <= labels <= (most := len(train) + len(others)):
            raise UserError(f"--labels {labels}: give a number from 2 to {most}")
        n = max(min((labels + 3) // 5, len(others)), labels - len(train))
        train, valid = train[: labels - n], others[:n] or None
    if valid is None:
        train, valid = _held_out(train if labels else _in_order(train, seed), 5 if labels else 10)
    if not train or not valid:
        raise UserError("too few texts to train on some and hold some out: give more, or --valid")
    parts, known = {**parts, "train": train, "valid": valid}, set(map(_key, train))
    for part in sorted(parts.keys() - {"train"}):
        if again := sum(_key(example) in known for example in parts[part]):
            note(f"warning: {again} of the {len(parts[part])} texts in {part} are in train, too")
    return parts


def checksum(parts: dict[str, list]) -> int:
    """A number that changes with the examples, their order and their division."""
    return zlib.crc32(repr(parts).encode("utf-8", "replace"))


def _in_order(examples: list, seed: int, once: bool = False, balanced: bool = False) -> list:
    """Examples in an order that a seed and their texts decide; balanced: a first one of each label,
    then a second one of each. once: without repetitions."""
    keyed = [(fraction(repr((_key(e), *e[1:])), f"labels {seed}"), e) for e in examples]
    if once:
        keyed = dict(keyed).items()
    ordered, turns = [], Counter()
    for place, example in sorted(keyed):
        label = getattr(example, "label", "")
        ordered.append((turns[label] if balanced else 0, place, example))
        turns[label] += 1
    return [example for *_, example in sorted(ordered)]


def _held_out(examples: list, every: int) -> tuple[list, list]:
    """Of each label the second group of examples, and every so many'th after it, apart."""
    held: dict[str, bool] = {}
    sides, turns = ([], []), Counter()
    for example in examples:
        if (key := _key(example)) not in held:
            label = getattr(example, "label", "")
            held[key] = turns[label] % every == 1
            turns[label] += 1
        sides[held[key]].append(example)
    return sides


def _key(example) -> str:
    """What decides on which side an example is: its text, words, context, or source."""
    return normalised(" ".join(example[0]) if isinstance(example, Tagged) else example[0])


def _check_labels(parts: dict[str, list[Example]], source: str) -> None:
    rows, classes = len(parts["train"]), sorted({example.label for example in parts["train"]})
    if not 2 <= len(classes) <= max(2, rows / 2):
        raise UserError(f"{source} has {len(classes)} labels in {rows} rows: give two or more, but "
                        f"at most half as many (is it the right --label-column?)")  # fmt: skip
    for name in classes:
        if name.lower() in MISSING:
            note(f"{source}: the label {name!r} is one like any other; if it means none, drop it")
    for part in parts:
        if unknown := {example.label for example in parts[part]}.difference(classes):
            raise UserError(f"{part} has the label {min(unknown)!r}, which train lacks: correct it")
