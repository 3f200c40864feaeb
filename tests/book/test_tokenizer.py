"""The tokenizer: lossless on every text, and learnt as a trainer that recounts everything does."""

import random
import re
import time
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from minilm.config import UserError
from minilm.tokenizer import DOC, MASK, N_BASE, N_SPECIAL, PAD, PATTERN, Tokenizer, count_pieces

TEXTS = [
    "It's the cat that we'll see; they've 12345 hats.\n\nThe hat's on the mat,\tisn't it?\r\n" * 2,
    "naïveté — кошка в шляпе, η γάτα, 猫は帽子をかぶる。 고양이 ❤️👩‍👩‍👧 𝔘𝔫𝔦 \u0301e ١٢٣" * 2,
    "    if x == 10:\n        return {'cat': 1}  # that's all\n" + "\ud800" * 40,
]
# What a fuzzed text is put together from: each case of the pattern, and what is hard to keep.
SNIPPETS = (
    *("'s", "'ll", "'r", "'", "t", "the", " ", "  ", "\n", "\r\n", "\t", "\x00", "\x1f", "\x7f"),
    *("7", "é", "\xa0", "中", "\u0301", "👩", "\uffff", "\U0010ffff", "\ud800", "\udc80", "\udfff"),
    *("<pad>", "<mask>", "<doc>", "a" * 70, " " * 70, "!" * 35, "\udcff" * 20),
)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(TEXTS, vocab_size=400)


def fuzzed(seed: int) -> str:
    rng = random.Random(seed)
    snippets = [*SNIPPETS, *(chr(rng.randrange(0x110000)) for _ in range(5))]
    return "".join(rng.choices(snippets, k=rng.randrange(40)))


def random_texts(seed: int) -> list[str]:
    rng = random.Random(seed)
    alphabet = rng.choice(
        ["a", "ab", "abc ", "a'st \n", "xyzé猫 .", "aA1! \t", "猫狗", "b\ud800\udc00"]
    )
    return ["".join(rng.choices(alphabet, k=rng.randrange(100))) for _ in range(4)]


def naive_merges(texts: list[str], n_merges: int) -> list[tuple[int, int]]:
    """Recounts the whole text before each merge."""
    pieces = [piece for text in texts for piece in re.findall(PATTERN, text)]
    rows = [[3 + byte for byte in piece.encode("utf-8", "surrogatepass")] for piece in pieces]
    merges = []
    while len(merges) < n_merges:
        counts = Counter(pair for row in rows for pair in pairwise(row))
        pair = min(counts, key=lambda pair: (-counts[pair], pair), default=None)
        if counts[pair] < 2:
            break
        for row in rows:
            for i in range(len(row)):
                if tuple(row[i : i + 2]) == pair:
                    row[i : i + 2] = [259 + len(merges)]
        merges.append(pair)
    return merges


PIECES = {
    "I'm sure they'll say it's": ["I", "'m", " sure", " they", "'ll", " say", " it", "'s"],
    "'seven 'llama": ["'", "seven", " '", "llama"],
    "x 12345.67": ["x", " 123", "45", ".", "67"],
    "end.\n\n  The\n\nb  \n": ["end", ".", "\n\n ", " The", "\n\n", "b", "  \n"],
    "кошка 猫 'ça": ["кошка", " 猫", " '", "ça"],
    " " * 40 + "a" * 40: [" " * 32, " " * 7, " " + "a" * 32, "a" * 8],
    "?" * 20 + "\x00": ["?" * 16, "?" * 4 + "\x00"],
}


@pytest.mark.parametrize("text", PIECES)
def test_the_pattern_cuts_where_words_begin(text):
    assert re.findall(PATTERN, text) == PIECES[text]


def test_learning_equals_counting_everything_again_before_each_merge():
    for seed in range(100):
        texts = random_texts(seed)
        assert Tokenizer.train(texts, N_BASE + 40).merges == naive_merges(texts, 40), seed


def test_neither_the_order_of_the_texts_nor_of_the_counts_changes_the_vocabulary(tokenizer):
    assert Tokenizer.train(reversed(TEXTS), 400).fingerprint == tokenizer.fingerprint
    shuffled = dict(sorted(count_pieces(TEXTS).items()))
    learn = tokenizer.train.__func__.__defaults__[0]
    assert learn(shuffled, 141) == tokenizer.merges


def test_ties_go_to_the_smaller_ids_and_a_pair_that_occurs_once_is_left():
    assert Tokenizer.train([" dc dc ba ba"], 261).merges == [(35, 101), (35, 103)]  # space: 35
    assert Tokenizer.train(["ab", "cd"], 1000).merges == []
    assert Tokenizer.train(["ab", "ab"], 1000).merges == [(100, 101)]


def test_of_the_pairs_in_a_piece_the_one_learnt_first_is_merged_first():
    tokenizer = Tokenizer([(101, 102), (100, 101), (100, 259), (99 + 4, 99 + 4)])  # bc, ab, abc, dd
    assert tokenizer.encode("abcab").tolist() == [261, 260]
    assert tokenizer.encode("ddddd").tolist() == [262, 262, 103]  # from left to right


def test_every_str_comes_back_and_no_special_token_arises_from_text(tokenizer):
    for seed in range(500):
        text = fuzzed(seed)
        ids = tokenizer.encode(text)
        assert ids.dtype == np.uint16 and tokenizer.decode(ids) == text
        assert all(i in tokenizer.special.ordinary for i in ids.tolist())


def test_bytes_that_are_no_text_become_replacement_characters(tokenizer):
    assert tokenizer.decode([N_SPECIAL + 0xE9, N_SPECIAL + ord("a")]) == "\ufffda"
    assert tokenizer.decode([PAD, MASK, DOC]) == "<pad><mask><doc>"
    assert tokenizer.special[:4] == (0, 1, 2, 2)
    assert list(tokenizer.special.ordinary) == list(range(3, tokenizer.vocab_size))
    assert [tokenizer.decode_bytes([i]) for i in range(400)] == tokenizer.token_bytes


def test_offsets_give_back_the_text_and_span_whole_characters(tokenizer):
    for seed in range(200):
        text = fuzzed(seed)
        ids, spans = tokenizer.encode_with_offsets(text)
        assert np.array_equal(ids, tokenizer.encode(text)) and spans.shape == (len(ids), 2)
        covered = 0
        for i, (start, end) in zip(ids, spans.tolist(), strict=True):
            assert covered - 1 <= start <= covered < max(end, covered + 1)
            assert tokenizer.decode_bytes([i]) in text[start:end].encode("utf-8", "surrogatepass")
            covered = end
        assert covered == len(text)
    spans = Tokenizer([]).encode_with_offsets("a猫b")[1]
    assert spans.tolist() == [[0, 1], [1, 2], [1, 2], [1, 2], [2, 3]]


def test_the_fingerprint_changes_with_the_merges():
    some = [], [(100, 101)], [(100, 101), (102, 103)], [(102, 103), (100, 101)]  # order decides
    prints = {Tokenizer(merges).fingerprint for merges in some}
    assert len(prints) == 4 and all(re.fullmatch("[0-9a-f]{16}", one) for one in prints)


@pytest.mark.parametrize("unit", ["a", " ", "猫", "a ", "'", "\ud800"])
def test_a_long_text_takes_time_in_proportion_to_its_length(tokenizer, unit):
    began = time.process_time()
    assert tokenizer.decode(tokenizer.encode(unit * 300_000)) == unit * 300_000
    assert time.process_time() - began < 20  # about one second; a quadratic loop takes hours


IMPOSSIBLE = {
    "of a special token": [(1, 100)],
    "of itself": [(100, 259)],
    "abc in two ways": [(100, 101), (101, 102), (259, 102), (100, 260)],
    "a token longer than any piece": [
        (100, 100),
        *((i, i) for i in range(259, 265)),
        (100, 265),
        (100, 266),
    ],
    "one too many for uint16": [(3 + i // 256, 3 + i % 256) for i in range(2**16 - N_BASE + 1)],
}


@pytest.mark.parametrize("merges", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_merges_that_no_training_gives_are_refused(merges):
    assert Tokenizer(merges[:-1]).vocab_size == N_BASE + len(merges) - 1
    with pytest.raises(UserError):
        Tokenizer(merges)


def test_a_vocabulary_size_or_an_id_out_of_range_is_refused(tokenizer):
    for vocab_size in (N_BASE - 1, 2**16 + 1):
        with pytest.raises(UserError, match=str(vocab_size)):
            Tokenizer.train([], vocab_size)
    for wrong in (-1, 400, 2**40):
        with pytest.raises(UserError, match=str(wrong)):
            tokenizer.decode([399, wrong])
