"""Labelled data: read, divided into training, validation and test, and sampled."""

from collections import defaultdict
from pathlib import Path

import numpy as np

from minilm import corpora
from minilm.config import UserError
from minilm.corpora import files, made
from minilm.corpora.files import Example, Tagged, fraction, normalised
from minilm.corpora.tables import note
from minilm.data import draws

HELD_OUT = 0.1  # of train for validation, where neither a validation part nor --labels is given
MISSING = {"nan", "na", "n/a", "none", "null"}  # how other programs write that there is no label
NAMED = {  # for other tasks; the first is made on this machine, the others lie in data/NAME
    "tag": ("python-docs-tags", "wnut17", "stackoverflow-ner"),
    "answer": ("python-docs-answers", "qamr"),
    "translate": ("latex-sympy", "multi30k", "python-docs-zh"),
}
COLUMNS = {"multi30k": ("en", "de"), "python-docs-zh": ("en", "zh")}
FILES = {"train": ("train",), "valid": ("valid", "val", "dev"), "test": ("test",)}


def splits(
    data: str | None = None, train: str | None = None, valid: str | None = None,
    test: str | None = None, labels: int | None = None, seed: int = 0,
    text_column: str = "text", label_column: str = "label", encoding: str = "utf-8",
) -> tuple[dict[str, list[Example]], list[str]]:  # fmt: skip
    """The examples of "train", "valid" and (if there is one) "test", and the sorted label names; of
    the corpus `data`, or of the files. labels: so many examples, drawn by the seed, are all that
    training and validation share. Without a validation part, texts of every label are held out. No
    text is then in both. Raises UserError for labels that cannot be learnt."""
    if train:
        given = dict(train=train, valid=valid, test=test)
        how = text_column, label_column, encoding
        parts = {part: files.read_examples(file, *how) for part, file in given.items() if file}
    else:
        parts = dict(corpora.labelled(data))
    source, rows = str(train or data), len(parts["train"])
    classes = sorted({example.label for example in parts["train"]})
    if not 2 <= len(classes) <= max(2, rows / 2):
        raise UserError(f"{source} has {len(classes)} labels in {rows} rows: give two or more, but "
                        f"at most half as many (is it the right --label-column?)")  # fmt: skip
    for name in classes:
        if name.lower() in MISSING:
            note(f"{source}: the label {name!r} is one like any other; if it means none, drop it")
    for part in parts:
        if unknown := {example.label for example in parts[part]}.difference(classes):
            raise UserError(f"{part} has the label {min(unknown)!r}, which train lacks: correct it")
    note_repeats(parts)
    if labels is not None:
        parts["train"], parts["valid"] = sample(parts["train"], parts.get("valid"), labels, seed)
    elif "valid" not in parts:
        parts["train"], parts["valid"] = hold_out(parts["train"], seed)
    if not parts["valid"]:
        raise UserError(f"{source} has too few texts to hold some out: give more, or --valid")
    return parts, classes


def read(config, path: Path) -> list:
    """The examples of a file, one at least, for the task that the options name."""
    if config.task == "translate":
        source, target = COLUMNS.get(config.data, files.Pair._fields)
        columns = config.source_column or source, config.target_column or target
        found = files.read_pairs(path, *columns, config.encoding)
    else:
        reader = files.read_tagged if config.task == "tag" else files.read_questions
        found = reader(path, config.encoding)
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
        given = dict(train=config.train, valid=config.valid, test=config.test)
        parts = {part: read(config, Path(file)) for part, file in given.items() if file}
    elif config.data == named[0]:
        parts = made.load(config.data)
    elif config.data in named:
        there = sorted(corpora.needed(config.data).iterdir())
        first = lambda begins: [file for file in there if file.name.startswith(begins)][:1]
        parts = {part: read(config, f) for part, begins in FILES.items() for f in first(begins)}
        if "train" not in parts:  # of QAMR, the smaller development part is what is learnt from
            parts["train"] = parts.pop("valid", [])
    else:
        raise UserError(f"--data {config.data}: for --task {config.task} there are "
                        f"{', '.join(named)}, or --train FILE")  # fmt: skip
    pool, share = parts["train"], 0.2 if config.labels else HELD_OUT
    if config.labels:
        if not 2 <= config.labels <= len(pool):
            raise UserError(f"--labels {config.labels}: give a number from 2 to {len(pool)}")
        order = f"labels {config.seed}"
        pool = sorted(pool, key=lambda example: fraction(repr(example), order))[: config.labels]
    if config.labels or "valid" not in parts:
        order = f"validation {config.seed}"
        keys = sorted(set(map(_key, pool)), key=lambda key: fraction(key, order))
        held = set(keys[: max(1, round(share * len(keys)))])
        parts["valid"] = [example for example in pool if _key(example) in held]
        pool = [example for example in pool if _key(example) not in held]
    if not pool:
        raise UserError("too few examples to train on some and hold some out: give more")
    parts["train"] = pool
    note_repeats(parts)
    return parts


def _key(example) -> str:
    """What decides on which side an example is: its text, words, context, or source."""
    return normalised(" ".join(example[0]) if isinstance(example, Tagged) else example[0])


def note_repeats(parts: dict[str, list]) -> None:
    """Say how many examples of the other parts are in train, too."""
    known = set(map(_key, parts["train"]))
    for part in sorted(parts.keys() - {"train"}):
        if again := sum(_key(example) in known for example in parts[part]):
            note(f"warning: {again} of the {len(parts[part])} texts in {part} are in train, too")


def hold_out(examples: list[Example], seed: int) -> tuple[list[Example], list[Example]]:
    """Take HELD_OUT of the different texts of every label, one at least where there are two."""
    by_label = defaultdict(list)
    for text, label in {normalised(e.text): e.label for e in examples}.items():
        by_label[label].append(text)
    rng, held = draws(seed, 0, "validation"), set()
    for _, texts in sorted(by_label.items()):
        n = min(max(1, round(HELD_OUT * len(texts))), len(texts) - 1)
        held.update(texts[i] for i in rng.permutation(len(texts))[:n])
    return tuple([e for e in examples if (_key(e) in held) is side] for side in (False, True))


def sample(
    train: list[Example], valid: list[Example] | None, n: int, seed: int
) -> tuple[list[Example], list[Example]]:
    """Draw n different texts, as many of each label as there are; every fifth is to validate on
    (from `valid` or, None, from train), the second of a label first. A smaller sample of the same
    seed is a part of a larger one. Raises UserError where n is too large, or too small for one text
    of every label to train on and one to validate on."""
    rng = draws(seed, 0, "labels")
    pools = [_pool(examples, rng) for examples in (train, valid or [])]
    drawn = []  # (turn, random number, is it to validate on, example)
    for label in sorted(pools[0]):
        to_train, to_validate = pools[0][label], pools[1][label] if valid else pools[0][label]
        for turn in range(len(to_train) + len(to_validate)):
            validates = (turn % 5 == 1 and bool(to_validate)) or not to_train
            pool = to_validate if validates else to_train
            if pool:  # the two may be one, which is empty by now
                drawn.append((turn, rng.random(), validates, pool.pop()))
    if not len(pools[0]) < n <= len(drawn):
        raise UserError(f"--labels {n}: give a number from {len(pools[0]) + 1} to {len(drawn)}")
    chosen = sorted(drawn)[:n]
    return tuple([e for *_, side, e in chosen if side is wanted] for wanted in (False, True))


def _pool(examples: list[Example], rng: np.random.Generator) -> dict[str, list[Example]]:
    """The examples of each label in random order, each text once."""
    pool = defaultdict(list)
    different = list({normalised(example.text): example for example in examples}.values())
    for i in rng.permutation(len(different)):
        pool[different[i].label].append(different[i])
    return pool
