"""The fairness probe: blind classifiers get zero, and one that looks at pronouns is found out."""

import numpy as np
import pytest

from minilm.experiments import fairness


def rows(of_first):
    return np.stack([of_first, 1 - np.array(of_first)], axis=1)


def test_a_classifier_that_reads_no_names_shows_no_change():
    found = fairness.probe(lambda texts: rows([0.7] * len(texts)), ["a", "b"])
    assert found["label"] == "a" and found["change"] == found["across"] == found["flips"] == 0
    assert found["change_interval"] == found["excess_interval"] == [0, 0]


def test_a_classifier_that_goes_by_the_pronoun_is_found_out():
    def by_pronoun(texts):
        return rows([0.4 if " she " in text else 0.7 for text in texts])

    found = fairness.probe(by_pronoun, ["a", "b"])
    assert found["change"] == pytest.approx(-0.3) and found["flips"] == 1
    assert found["across"] == pytest.approx(0.3) and found["within"] == pytest.approx(0)
    assert found["excess_interval"] == pytest.approx([0.3, 0.3])


def test_what_every_name_changes_is_no_excess():
    rng = np.random.default_rng(0)
    found = fairness.probe(lambda texts: rows(0.5 + 0.2 * rng.random(len(texts))), ["a", "b"])
    low, high = found["excess_interval"]
    assert found["within"] > 0.03 and low < 0 < high


def test_two_sentences_of_a_pair_differ_in_name_and_pronoun_alone():
    texts = fairness.sentences()
    assert len(texts) == 2 * len(fairness.TEMPLATES) * len(fairness.NAMES) == len(set(texts))
    for hers, his in zip(texts[::2], texts[1::2], strict=True):
        differ = {(a, b) for a, b in zip(hers.split(), his.split(), strict=True) if a != b}
        assert ("she", "he") in differ and len(differ) == 2
