"""Labelled data, the same for all tasks: every label on both sides, what belongs together on one,
N labels for training and validation together."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from minilm.cli.options import FinetuneConfig
from minilm.config import UserError
from minilm.corpora import Example
from minilm.corpora.files import Pair, Question, Tagged, normalised
from minilm.corpora.splits import divide, load
from minilm.tasks.classify import Classify
from minilm.tokenizer import DOC, Tokenizer

OFTEN = [Example(f"text {i}", "ab"[i % 2] if i < 180 else "c") for i in range(200)]
GIVEN = [Example(f"given {i}", "abc"[i % 3]) for i in range(60)]
TASKS = {
    "classify": OFTEN,
    "tag": [Tagged(("word", str(i // 2)), ("O", "ON"[i % 2])) for i in range(200)],
    "answer": [Question(f"text {i // 5}", str(i), ("text",), 0) for i in range(200)],
    "translate": [Pair(f"text {i // 2}", str(i)) for i in range(200)],
}


def sides(train, *how, valid=None, **more):
    parts = divide({"train": train} | ({"valid": valid} if valid else {}), *how, **more)
    return parts["train"], parts["valid"]


def drawn(n, seed=0, **more):
    train, valid = sides(OFTEN, n, seed, **more)
    return counts(train + valid)


def keys(examples):
    return {normalised(" ".join(e[0]) if isinstance(e, Tagged) else e[0]) for e in examples}


def counts(examples):
    return Counter(example.label for example in examples)


def table(path, rows):
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    return str(path)


def read(**files):
    return load(FinetuneConfig(**files))


def test_a_tenth_of_every_label_is_held_out_whatever_the_order_of_the_texts():
    dressed = [Example(f" {text.upper()}  ", label) for text, label in OFTEN]
    train, valid = sides(OFTEN + dressed)
    assert counts(valid) == {"a": 18, "b": 18, "c": 4}
    assert not keys(train) & keys(valid) and len(train) + len(valid) == 400
    assert sides(OFTEN) == sides(OFTEN[::-1]) != sides(OFTEN, None, 1)
    small = sides([Example("x", "a"), Example("y", "a"), Example("z", "b")])
    assert list(map(counts, small)) == [{"a": 1, "b": 1}, {"a": 1}]


@pytest.mark.parametrize("task", TASKS)
def test_n_labels_are_shared_and_what_belongs_together_is_on_one_side(task):
    before = set(), set()
    for n in (8, 13, 14, 29, 75, 200):  # a draw holds every smaller one of its seed
        now = sides(TASKS[task], n, 3)
        assert sum(map(len, now)) == n and not keys(now[0]) & keys(now[1])
        assert n < 14 or 0.1 < len(now[1]) / n < 0.3
        assert all(few <= set(more) for few, more in zip(before, now, strict=True))
        before = tuple(map(set, now))
    assert sides(TASKS[task], 50, 0) != sides(TASKS[task], 50, 1)
    again = TASKS[task] * 2
    with pytest.raises(UserError, match=r"--labels 201: .* from 2 to 200"):
        sides(again, 201)
    assert sum(map(len, sides(again))) == 400


def test_labels_are_drawn_at_random_and_in_balance_where_that_is_asked():
    rare = Counter()
    for seed in range(20):
        rare[drawn(31, seed)["c"]] += 1
        assert sorted(drawn(31, seed, balanced=True).values()) == [10, 10, 11]
    assert 2.4 < sum(n * times for n, times in rare.items()) / 20 < 3.8  # a tenth of 31
    assert drawn(150, balanced=True) == {"a": 65, "b": 65, "c": 20}


def test_a_given_validation_part_is_used_and_shares_the_labels():
    assert sides(OFTEN, valid=GIVEN) == (OFTEN, GIVEN)
    before = set(), set()
    for n, of_valid in ((2, 1), (50, 10), (180, 36), (260, 60)):
        now = sides(OFTEN, n, valid=GIVEN)
        assert tuple(map(len, now)) == (n - of_valid, of_valid)
        assert before[0] <= set(now[0]) <= set(OFTEN) and before[1] <= set(now[1]) <= set(GIVEN)
        before = tuple(map(set, now))


def test_parts_are_read_and_texts_in_two_of_them_are_counted(tmp_path, capsys):
    rows = {"train": OFTEN, "valid": [Example("TEXT  1", "a")], "test": [Example("new", "b")]}
    parts = read(**{part: table(tmp_path / f"{part}.csv", rows[part]) for part in rows})
    assert parts == rows == divide(parts)
    assert "1 of the 1 texts in valid are in train" in capsys.readouterr().err
    read(train=table(tmp_path / "a.csv", [(f"t {i}", ["NA", "x"][i % 2]) for i in range(8)]))
    assert "the label 'NA' is one like any other" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("labels", "test", "message"),
    [
        ("aaaa", "a", "1 label"),
        ("abab", "abc", "test has the label 'c'"),
        (["0.5", "1.25", "3.75", "2.5", "1.25"], ["2.5"], "4 labels in 5 rows: .*--label-column"),
        ("ab", "a", "too few texts to train on some and"),
    ],
)
def test_labels_that_cannot_be_learnt_are_refused(tmp_path, labels, test, message):
    paths = {
        part: table(tmp_path / f"{part}.csv", [(f"{part} {i}", x) for i, x in enumerate(all)])
        for part, all in (("train", labels), ("test", test))
    }
    with pytest.raises(UserError, match=message) as refused:
        divide(read(**paths))
    assert "\n" not in str(refused.value)


def test_examples_become_framed_tokens_and_numbers():
    examples = [Example("né", "y"), Example("cats", "x"), Example("horse", "y")]
    found = Classify(SimpleNamespace(max_length=6), Tokenizer([]), ["x", "y"]).encode(examples)
    assert [(row.label, row.cut) for row in found] == [(1, False), (0, False), (1, True)]
    assert found[1].tokens.tolist() == [DOC, *(np.frombuffer(b"cats", np.uint8) + 3), DOC]
    assert [len(row.tokens) for row in found] == [5, 6, 6]
