"""Minimal pairs: made from frequent words, balanced, and scored as each objective was taught."""

import json
from collections import Counter

import numpy as np
import pytest
import torch

from minilm.config import UserError
from minilm.experiments import minimal_pairs as mp
from minilm.experiments.ngrams import log_likelihoods
from minilm.tokenizer import DOC, MASK, Tokenizer

TOKENIZER = Tokenizer([])
EVERY_WORD = Counter(
    {
        word + end: 9
        for words in mp.SLOTS.values()
        for word in words.split()
        for end in ("", "s", "ed")
    }
)  # fmt: skip
for templates in mp.PHENOMENA.values():
    EVERY_WORD.update(word for pair in templates for side in pair for word in mp.words_of(side) * 9)


def test_only_words_that_the_text_has_often_enough_are_in_a_pair():
    counts = EVERY_WORD.copy()
    del counts["file"]
    pairs = mp.make_pairs(counts)
    assert {pair.phenomenon for pair in pairs} == set(mp.PHENOMENA)
    words = {word for pair in pairs for side in pair[1:] for word in mp.words_of(side)}
    assert "file" not in words and "name" in words
    assert mp.make_pairs(Counter()) == []


def test_the_frequency_of_words_alone_gets_half_of_the_pairs():
    pairs = mp.make_pairs(EVERY_WORD)
    rng = np.random.default_rng(0)
    weight = {word: -rng.exponential() for word in sorted(EVERY_WORD)}
    # The two forms of a verb or a noun are as frequent, say, for every verb and noun.
    form = {"": -1.0, "s": -2.0, "ed": -3.0}
    for name in ("noun", "verb"):
        for word in mp.SLOTS[name].split():
            weight.update({word + end: weight[word] + value for end, value in form.items()})
    sides = [[sum(weight[w] for w in mp.words_of(p[i])) for p in pairs] for i in (1, 2)]
    good, bad = map(np.array, sides)
    assert set(mp.shares_right(pairs, good, bad).values()) == {0.5}


def test_a_tie_counts_half():
    pairs = [mp.Pair("one", "a", "b")] * 3 + [mp.Pair("two", "a", "b")]
    good, bad = np.array([0.1 + 0.2 + 0.7, 2.0, 0.0, 5.0]), np.array([1.0, 1.0, 1.0, 1.0])
    assert mp.shares_right(pairs, good, bad) == {"one": 0.5, "two": 1.0}


def test_a_causal_likelihood_is_the_product_of_next_words(make_model):
    model = make_model()
    sentences = [np.array([5, 6, 7, 9], np.uint16), np.array([8], np.uint16)]
    for sentence, found in zip(sentences, mp.log_likelihood(model, sentences), strict=True):
        text = torch.tensor([[DOC, *sentence.tolist()]])
        log_p = model.logits(model(text, causal=True)[0]).log_softmax(-1)
        by_hand = sum(log_p[i, word].item() for i, word in enumerate(sentence.tolist()))
        assert found == pytest.approx(by_hand, abs=1e-9)


@pytest.mark.parametrize("shift", [0, 1])
def test_a_hidden_word_is_hidden_to_its_end_and_asked_for_where_it_was_taught(make_model, shift):
    model, sentence = make_model(), [5, 6, 7, 9]
    starts = np.array([True, True, False, True])  # 6 and 7 are one word
    seen = [
        [DOC, MASK, 6, 7, 9, DOC],
        [DOC, 5, MASK, MASK, 9, DOC],
        [DOC, 5, 6, MASK, 9, DOC],
        [DOC, 5, 6, 7, MASK, DOC],
    ]
    hidden = model(torch.tensor(seen), causal=False)
    by_hand = sum(
        model.logits(hidden[i, i + 1 - shift]).log_softmax(-1)[word].item()
        for i, word in enumerate(sentence)
    )
    (found,) = mp.pseudo_log_likelihood(model, [np.array(sentence, np.uint16)], [starts], shift)
    assert found == pytest.approx(by_hand, abs=1e-9)


def test_a_word_begins_wherever_no_letter_follows_a_letter():
    sentence = TOKENIZER.encode("It's a cat.")
    text = "It's a cat."
    begins = [c for c, b in zip(text, mp.starts_word(TOKENIZER, sentence), strict=True) if b]
    assert "".join(begins) == "I's a c."


@pytest.mark.parametrize(
    ("objective", "readings"),
    [("causal", ["causal"]), ("masked", ["masked"]), ("hybrid", ["causal", "masked"]), (None, [])],
)
def test_each_objective_is_scored_in_the_readings_it_was_taught(make_model, objective, readings):
    model = make_model(vocab_size=TOKENIZER.vocab_size, max_length=40)
    pairs = [mp.Pair("one", "a cat is", "a cat are")] * 2 + [mp.Pair("two", "x" * 60, "y")]
    found = mp.by_reading(model, TOKENIZER, objective, pairs)
    assert list(found) == readings
    assert all(set(shares) == {"one"} for shares in found.values())  # the other is too long
    assert mp.by_reading(model, TOKENIZER, objective, pairs[2:]) == {}


def test_blimp_is_read_from_its_files_and_what_is_none_is_named(tmp_path):
    row = {"sentence_good": "Who left?", "sentence_bad": "Left who?"}
    (tmp_path / "wh_order.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    assert mp.read_blimp(str(tmp_path)) == [mp.Pair("wh order", "Who left?", "Left who?")]
    (tmp_path / "other.jsonl").write_text('{"text": 1}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"other.jsonl: line 1 has no sentence_good"):
        mp.read_blimp(str(tmp_path))
    with pytest.raises(UserError, match=r"no \.jsonl files"):
        mp.read_blimp(str(tmp_path / "nowhere"))


def test_words_are_as_likely_as_witten_and_bell_say():
    train = np.array([0, 2, 3, 4, 3, 5, 3, 4], np.uint16)
    unigram = np.array([1, 0, 1, 3, 2, 1]) + 1
    p1 = unigram / unigram.sum()
    p2 = (2 + 2 * p1[4]) / (3 + 2)  # after 3: 4 twice and 5 once, two different words
    found = log_likelihoods(train, [np.array([3, 4], np.uint16)], 6)
    assert found["unigram"][0] == pytest.approx(np.log(p1[3] * p1[4]))
    # <doc> is id 2: "2 2 3" backs off to "2 3"; "2 3 4" was seen once, and nothing else after "2 3"
    first = (1 + 1 * p1[3]) / (1 + 1)  # after 2: 3, once
    second = (1 + 1 * p2) / 2
    assert found["trigram"][0] == pytest.approx(np.log(first * second))
    alone = log_likelihoods(train, [np.array([5], np.uint16), np.array([3, 4], np.uint16)], 6)
    assert alone["trigram"][1] == found["trigram"][0]
