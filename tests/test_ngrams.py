"""What counting words in threes reaches."""

import math

import numpy as np
import pytest

from minilm.experiments.ngrams import trigram_entropy


def test_a_text_in_which_two_words_decide_the_third_has_hardly_any_entropy():
    text = np.tile([3, 1, 3, 2, 2, 5], 500).astype(np.uint16)  # 3 alone leaves its heir open
    assert trigram_entropy(text, text[:300], 8) < 0.01


def test_words_drawn_by_chance_keep_their_entropy():
    words = np.random.default_rng(0).integers(0, 8, 60000).astype(np.uint16)
    assert trigram_entropy(words[:50000], words[50000:], 8) == pytest.approx(math.log(8), abs=0.01)


def test_words_never_seen_are_not_impossible():
    assert math.isfinite(trigram_entropy(np.array([1, 2] * 50), np.array([5, 6] * 10), 8))
