"""Labelled texts: every label on both sides, no text on both, N labels for training and validation
together."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from minilm.config import UserError
from minilm.corpora import Example, splits
from minilm.corpora.files import normalised
from minilm.corpora.splits import hold_out, sample
from minilm.corpora.tables import note
from minilm.tasks.classify import Classify
from minilm.tokenizer import DOC, Tokenizer

OFTEN = [Example(f"text {i}", "ab"[i % 2] if i < 180 else "c") for i in range(200)]


def keys(examples):
    return {normalised(example.text) for example in examples}


def table(path, rows):
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    return str(path)


def test_a_tenth_of_every_label_is_held_out_and_no_text_is_on_both_sides():
    dressed = [Example(f" {text.upper()}  ", label) for text, label in OFTEN]
    train, valid = hold_out(OFTEN + dressed, seed=0)
    assert Counter(e.label for e in valid) == {"a": 18, "b": 18, "c": 4}
    assert not keys(train) & keys(valid) and len(train) + len(valid) == 400
    assert hold_out(OFTEN, 0) == hold_out(OFTEN, 0) != hold_out(OFTEN, 1)
    small = hold_out([Example("x", "a"), Example("y", "a"), Example("z", "b")], 0)
    assert [Counter(e.label for e in side) for side in small] == [{"a": 1, "b": 1}, {"a": 1}]


def test_n_labels_are_shared_by_training_and_validation_in_balance():
    for n in (4, 6, 7, 15, 50, 150):
        train, valid = sample(OFTEN, None, n, seed=0)
        assert len(train) + len(valid) == n and not keys(train) & keys(valid)
        counts = Counter(e.label for e in train + valid)
        assert all(counts[label] >= min(n // 3, 20) for label in "abc")
        assert Counter(e.label for e in train).keys() == {*"abc"}
        assert n < 6 or Counter(e.label for e in valid).keys() == {*"abc"}
        assert n < 15 or 0.15 < len(valid) / n < 0.25
    given = [Example(f"given {i}", "abc"[i % 3]) for i in range(60)]
    train, valid = sample(OFTEN, given, 50, seed=0)
    assert len(valid) == 11 and set(valid) <= set(given) and not set(train) & set(given)


def test_a_sample_holds_every_smaller_one_of_its_seed_and_favours_no_label():
    for valid in (None, [Example(f"given {i}", "abc"[i % 3]) for i in range(60)]):
        before = set(), set()
        for n in (4, 5, 14, 29, 75, 180):
            now = [set(side) for side in sample(OFTEN, valid, n, seed=3)]
            assert before[0] <= now[0] and before[1] <= now[1]
            before = now
    more = Counter()
    for seed in range(60):
        counts = Counter(e.label for side in sample(OFTEN, None, 31, seed) for e in side)
        more.update(label for label in "abc" if counts[label] == 11)
    assert more.total() == 60 and min(more[label] for label in "abc") >= 10
    with pytest.raises(UserError, match=r"--labels 3: .* from 4 to 200"):
        sample(OFTEN, None, 3, seed=0)
    with pytest.raises(UserError, match="from 4 to 200"):
        sample(OFTEN + [Example(e.text.upper(), e.label) for e in OFTEN], None, 201, seed=0)


def test_parts_that_are_given_are_used_and_texts_in_two_of_them_are_counted(tmp_path, capsys):
    note.cache_clear()
    rows = {"train": OFTEN, "valid": [Example("TEXT  1", "a")], "test": [Example("new", "b")]}
    parts, classes = splits.splits(
        **{part: table(tmp_path / f"{part}.csv", examples) for part, examples in rows.items()}
    )
    assert classes == ["a", "b", "c"] and parts["train"] == OFTEN
    assert parts["valid"] == [("TEXT  1", "a")] and parts["test"] == rows["test"]
    assert "1 of the 1 texts in valid are in train" in capsys.readouterr().err
    parts, _ = splits.splits(train=table(tmp_path / "a.csv", OFTEN), labels=50)
    assert {part: len(examples) for part, examples in parts.items()} == {"train": 39, "valid": 11}


@pytest.mark.parametrize(
    ("labels", "test", "message"),
    [
        ("aaaa", "a", "1 label"),
        ("abab", "abc", "test has the label 'c'"),
        (["0.5", "1.25", "3.75", "2.5", "1.25"], ["2.5"], "4 labels in 5 rows: .*--label-column"),
        ("ab", "a", "too few texts to hold some out"),
    ],
)
def test_labels_that_cannot_be_learnt_are_refused(tmp_path, labels, test, message):
    paths = {
        part: table(tmp_path / f"{part}.csv", [(f"{part} {i}", x) for i, x in enumerate(all)])
        for part, all in (("train", labels), ("test", test))
    }
    with pytest.raises(UserError, match=message) as refused:
        splits.splits(**paths)
    assert "\n" not in str(refused.value)


def test_a_label_that_may_mean_none_is_pointed_out(tmp_path, capsys):
    note.cache_clear()
    splits.splits(
        train=table(tmp_path / "a.csv", [(f"t {i}", ["NA", "x"][i % 2]) for i in range(8)])
    )
    assert "the label 'NA' is one like any other" in capsys.readouterr().err


def test_examples_become_framed_tokens_and_numbers():
    examples = [Example("né", "y"), Example("cats", "x"), Example("horse", "y")]
    found = Classify(SimpleNamespace(max_length=6), Tokenizer([]), ["x", "y"]).encode(examples)
    assert [(row.label, row.cut) for row in found] == [(1, False), (0, False), (1, True)]
    assert found[1].tokens.tolist() == [DOC, *(np.frombuffer(b"cats", np.uint8) + 3), DOC]
    assert [len(row.tokens) for row in found] == [5, 6, 6]
