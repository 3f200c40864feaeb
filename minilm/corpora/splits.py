"""Labelled texts: read, split and sampled."""

from collections import defaultdict
from collections.abc import Callable

import numpy as np

from minilm import corpora
from minilm.config import UserError
from minilm.corpora.files import Example, normalised, read_examples
from minilm.corpora.tables import note
from minilm.data import draws

HELD_OUT = 0.1  # of train for validation, where neither a validation part nor --labels is given
MISSING = {"nan", "na", "n/a", "none", "null"}  # how other programs write that there is no label


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
        files = dict(train=train, valid=valid, test=test)
        how = text_column, label_column, encoding
        parts = {part: read_examples(file, *how) for part, file in files.items() if file}
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
    note_repeats(parts, key=lambda example: normalised(example.text))
    if labels is not None:
        parts["train"], parts["valid"] = sample(parts["train"], parts.get("valid"), labels, seed)
    elif "valid" not in parts:
        parts["train"], parts["valid"] = hold_out(parts["train"], seed)
    if not parts["valid"]:
        raise UserError(f"{source} has too few texts to hold some out: give more, or --valid")
    return parts, classes


def note_repeats(parts: dict[str, list], key: Callable) -> None:
    """Say how many examples of the other parts are in train, too."""
    known = {key(example) for example in parts["train"]}
    for part in sorted(parts.keys() - {"train"}):
        if again := sum(key(example) in known for example in parts[part]):
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
    sides = [], []
    for example in examples:
        sides[normalised(example.text) in held].append(example)
    return sides


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
