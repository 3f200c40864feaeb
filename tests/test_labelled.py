"""Texts with labels: split without overlap, sampled in balance, cut, padded and batched."""

import csv
from collections import Counter

import numpy as np
import pytest

from minilm.config import FinetuneConfig, UserError
from minilm.corpora import Example
from minilm.labelled import (
    LabelledTexts,
    batch_of,
    encode_examples,
    epoch_batches,
    evaluation_batches,
    frame,
    nested_sample,
    pad,
    read_splits,
)
from minilm.tokenizer import DOC, PAD, Tokenizer


def write_table(path, rows):
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return str(path)


def some_texts(n, longest=200):
    rng = np.random.default_rng(1)
    tokens = [rng.integers(3, 40, length) for length in rng.integers(2, longest + 1, n)]
    return LabelledTexts(tokens, np.arange(n) % 3, 0.0)


def share_of_padding(data, batches):
    return 1 - np.mean(np.concatenate([batch_of(data, b).is_real.ravel() for b in batches]))


def test_a_validation_part_is_carved_from_train_and_shares_no_text_with_it(tmp_path):
    rows = [(f"text {n % 60}", "ab"[n % 2]) for n in range(200)]  # every text several times
    splits, classes = read_splits(FinetuneConfig(train=write_table(tmp_path / "a.csv", rows)))
    train, valid = ({example.text for example in splits[p]} for p in ("train", "valid"))
    assert classes == ["a", "b"] and set(splits) == {"train", "valid"}
    assert not train & valid and len(train | valid) == 60
    assert len(valid) == 6
    assert len(splits["train"]) + len(splits["valid"]) == 200


def test_the_carved_part_is_a_function_of_the_seed(tmp_path):
    path = write_table(tmp_path / "a.csv", [(f"text {n}", "ab"[n % 2]) for n in range(100)])
    valid = [
        tuple(read_splits(FinetuneConfig(train=path, seed=seed))[0]["valid"]) for seed in (0, 0, 1)
    ]
    assert valid[0] == valid[1] != valid[2]


def test_parts_that_are_given_are_used_as_they_are(tmp_path):
    paths = {
        part: write_table(tmp_path / f"{part}.csv", [(f"{part} x", "a"), (f"{part} y", "b")])
        for part in ("train", "valid", "test")
    }
    splits, _ = read_splits(FinetuneConfig(**paths))
    for part, examples in splits.items():
        assert examples == [Example(f"{part} x", "a"), Example(f"{part} y", "b")]


@pytest.mark.parametrize(
    ("train_labels", "test_labels", "message"),
    [
        ("aaaa", "a", "1 label"),
        ("abab", "abc", "test has the label 'c'"),
        (
            ["1", "1", "1.0", "1", "1.0", "2", "2"],
            "1",
            r"'1' and '1.0', one number written in two ways",
        ),
        (["0.5", "1.25", "3.75", "2.5", "1.25"], ["2.5"], "4 labels in 5 rows .*--label-column"),
    ],
)
def test_labels_that_cannot_be_learnt_are_refused(tmp_path, train_labels, test_labels, message):
    paths = {
        part: write_table(tmp_path / f"{part}.csv", [(f"{part} {i}", x) for i, x in enumerate(all)])
        for part, all in (("train", train_labels), ("valid", train_labels), ("test", test_labels))
    }
    with pytest.raises(UserError, match=message) as refused:
        read_splits(FinetuneConfig(**paths))
    assert "\n" not in str(refused.value)


def test_labels_that_look_like_numbers_are_names_where_each_has_one(tmp_path):
    rows = [(f"text {i}", ("1.0", "2.0", "x")[i % 3]) for i in range(12)]
    assert read_splits(FinetuneConfig(train=write_table(tmp_path / "a.csv", rows)))[1] == [
        *("1.0", "2.0", "x")
    ]


def test_texts_of_train_in_another_part_are_counted(tmp_path, capsys):
    rows = [(f"text {i}", "ab"[i % 2]) for i in range(8)]
    train, test = write_table(tmp_path / "a.csv", rows), write_table(tmp_path / "t.csv", rows[:3])
    valid = write_table(tmp_path / "v.csv", [("other", "a"), rows[0]])
    read_splits(FinetuneConfig(train=train, valid=valid, test=test))
    warned = capsys.readouterr().err
    assert "3 of the 3 texts in test are in train, too" in warned
    assert "1 of the 2 texts in valid" in warned and warned.count("\n") == 2
    read_splits(FinetuneConfig(train=train))
    assert not capsys.readouterr().err


def test_a_sample_is_balanced_and_holds_every_smaller_one():
    labels = ["often"] * 80 + ["seldom"] * 15 + ["hardly"] * 5
    examples = [Example(f"text {i}", label) for i, label in enumerate(labels)]
    samples = {n: nested_sample(examples, n, seed=0) for n in (3, 10, 15, 30, 60, 100)}
    for smaller, larger in zip(list(samples)[:-1], list(samples)[1:], strict=True):
        assert set(samples[smaller]) < set(samples[larger])
    for n, sample in samples.items():
        assert len(set(sample)) == n
        counts = Counter(example.label for example in sample)
        for label, possible in (("often", 80), ("seldom", 15), ("hardly", 5)):
            assert counts[label] >= min(possible, n // 3)
    assert samples[30] != nested_sample(examples, 30, seed=1)


@pytest.mark.parametrize("n", [1, 5])
def test_a_sample_that_cannot_be_is_refused(n):
    examples = [Example(f"text {i}", "ab"[i % 2]) for i in range(4)]
    with pytest.raises(UserError, match=f"--labels {n}.*from 2 to 4"):
        nested_sample(examples, n, seed=0)


def test_a_long_text_keeps_one_part_of_its_head_and_three_of_its_tail():
    words = np.arange(3, 103, dtype=np.uint16)
    assert frame(words, 10).tolist() == [DOC, 3, 4, 97, 98, 99, 100, 101, 102, DOC]
    assert frame(words[:8], 10).tolist() == [DOC, *range(3, 11), DOC]  # just fits
    assert frame(words[:9], 10).tolist() == [DOC, 3, 4, *range(6, 12), DOC]
    assert frame(words[:0], 10).tolist() == [DOC, DOC]
    for max_length in range(2, 20):
        assert len(frame(words, max_length)) == max_length


def test_examples_become_the_tokens_of_their_texts_and_the_numbers_of_their_labels():
    tokenizer = Tokenizer([])  # a token for every byte
    examples = [Example("né", "y"), Example("cats", "x"), Example("horse", "y")]
    found = encode_examples(tokenizer, examples, ["x", "y"], max_length=6)
    assert found.labels.tolist() == [1, 0, 1]
    assert found.share_cut == pytest.approx(1 / 3)
    assert [tokenizer.decode(t[1:-1]) for t in found.tokens] == ["né", "cats", "hrse"]


def test_batches_have_few_lengths_and_none_is_longer_than_the_longest_text():
    texts = [np.full(n, 7, np.uint16) for n in range(1, 101)]
    data = LabelledTexts(texts, np.zeros(100, dtype=np.int64), 0.0)
    batches = [batch_of(data, np.array([i])) for i in range(100)]
    assert {batch.tokens.shape[1] for batch in batches} == {16, 32, 48, 64, 80, 96, 100}
    assert [batch.is_real.sum() for batch in batches] == list(range(1, 101))


def test_padding_stands_at_the_end_and_is_marked():
    tokens, is_real = pad([np.array([5, 6], np.uint16), np.array([7, 8, 9], np.uint16)])
    assert tokens.tolist() == [[5, 6, PAD], [7, 8, 9]]
    assert is_real.tolist() == [[True, True, False], [True, True, True]]
    assert tokens.dtype == np.int64


def test_a_batch_pairs_each_text_with_its_own_label():
    data = some_texts(20)
    indices = np.array([7, 2, 12])
    batch = batch_of(data, indices)
    for row, i in enumerate(indices):
        assert np.array_equal(batch.tokens[row][batch.is_real[row]], data.tokens[i])
        assert batch.labels[row] == data.labels[i]


def test_an_epoch_holds_every_text_once_with_little_padding_in_an_order_of_its_own():
    data = some_texts(1003)
    epochs = [epoch_batches(data, 16, seed, epoch) for seed, epoch in ((0, 0), (0, 0), (0, 1))]
    for batches in epochs:
        assert sorted(np.concatenate(batches)) == list(range(1003))
        assert len(batches) == -(-1003 // 16)
        assert share_of_padding(data, batches) < 0.1
    first, again, second = map(np.concatenate, epochs)
    assert np.array_equal(first, again) and not np.array_equal(first, second)
    together = [{frozenset(batch) for batch in batches} for batches in epochs]
    assert not together[0] & together[2]  # not the same batches in another order either
    lengths = [max(len(data.tokens[i]) for i in batch) for batch in epochs[0]]
    assert 0.3 < (np.diff(lengths) > 0).mean() < 0.7  # short and long ones come mixed
    at_random = np.array_split(np.random.default_rng(2).permutation(1003), 63)
    assert share_of_padding(data, at_random) > 0.3


def test_evaluation_reads_every_text_once_the_longest_first():
    data = some_texts(50)
    batches = list(evaluation_batches(data, 16))
    order = np.concatenate(batches)
    assert sorted(order) == list(range(50))
    lengths = [len(data.tokens[i]) for i in order]
    assert lengths == sorted(lengths, reverse=True)
