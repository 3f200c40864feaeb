"""The tokenizer: lossless, the same wherever and however it is run, and equal to slower oracles."""

import os
import random
import re
import subprocess
import sys
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import minilm.tokenizer
from minilm.config import UserError
from minilm.tokenizer import DOC, MASK, N_BASE, N_SPECIAL, PAD, PATTERN, Tokenizer, blocks

ENGLISH = (
    "It's the cat that we'll see; they've 12345 hats.\n\nThe hat's on the mat,\tisn't it?\r\n"
    "    if x == 10:\n        return {'cat': 1}  # that's all\n"
)
FOREIGN = "naïveté — кошка в шляпе, η γάτα, 猫は帽子をかぶる。 고양이 ❤️👩‍👩‍👧 𝔘𝔫𝔦 \u0301e ١٢٣"
# What a fuzzed text is put together from: each of the pattern's cases, and what is hard to keep.
SNIPPETS = (
    *("'s", "'ll", "'r", "'", "t", "the", " ", "  ", "\n", "\r\n", "\t", "\x00", "\x1f", "\x7f"),
    *("7", "é", "\xa0", "中", "\u0301", "👩", "\uffff", "\U0010ffff", "\ud800", "\udc80", "\udfff"),
    *("<pad>", "<mask>", "<doc>", "a" * 70, " " * 70, "!" * 35, "\udcff" * 20),
)


def many(few, all):
    """A quick share of a long proof, and the whole of it among the slow tests."""
    return pytest.mark.parametrize("n", [few, pytest.param(all, marks=pytest.mark.slow)])


def make_tokenizer() -> Tokenizer:
    return Tokenizer.train([[ENGLISH * 2], [FOREIGN * 2 + "\ud800" * 40]], vocab_size=400)


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


def fuzzed(seed: int, valid: bool = False) -> str:
    rng = random.Random(seed)
    snippets = [*SNIPPETS, *(chr(rng.randrange(0x110000)) for _ in range(5))]
    text = "".join(rng.choices(snippets, k=rng.randrange(40)))
    return text.encode("utf-8", "ignore").decode() if valid else text


def cut_at_random(text: str, rng: random.Random) -> list[str]:
    places = sorted(rng.choices(range(len(text) + 1), k=rng.randrange(8)))
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


def naive_merges(texts: list[str], n_merges: int) -> list[tuple[int, int]]:
    """Recounts everything before each merge."""
    pieces = [piece for text in texts for piece in re.findall(PATTERN, text)]
    words = [[N_SPECIAL + byte for byte in piece.encode()] for piece in pieces]
    merges = []
    for new in range(N_BASE, N_BASE + n_merges):
        counts = Counter()
        for word in words:
            last_place = {}
            for i, pair in enumerate(pairwise(word)):
                if last_place.get(pair) != i - 1:  # "aaa" can merge once, not twice
                    counts[pair] += 1
                    last_place[pair] = i
        pair = min(counts, key=lambda pair: (-counts[pair], pair), default=None)
        if counts[pair] < 2:
            break
        merges.append(pair)
        for word in words:
            for i in range(len(word)):
                if tuple(word[i : i + 2]) == pair:
                    word[i : i + 2] = [new]
    return merges


def test_the_worked_examples_of_the_docstrings_hold():
    tokenizer = Tokenizer.train([["the cat, the hat"]], vocab_size=262)
    assert tokenizer.merges == [(100, 119), (107, 104), (119, 260)]
    assert tokenizer.encode("that").tolist() == [119, 107, 259]
    assert tokenizer.decode([261, 259]) == "theat"
    assert list(blocks(["one tw", "o three"], size=6)) == ["one", " two", " three"]


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


@many(1000, 10_000)
def test_every_str_comes_back_and_its_bytes_give_the_same_ids(tokenizer, n):
    for seed in range(n):
        text = fuzzed(seed)
        ids = tokenizer.encode(text)
        assert ids.dtype == np.uint16 and tokenizer.decode(ids) == text
        assert np.array_equal(ids, tokenizer.encode(text.encode("utf-8", "surrogatepass")))


@many(1000, 10_000)
def test_every_bytes_comes_back(n):
    rng = random.Random(n)
    data = [rng.randbytes(rng.randrange(60)) for _ in range(n)]
    data += ["naïve 猫".encode()[:cut] for cut in range(11)]
    trained = Tokenizer.train([[FOREIGN]], vocab_size=300)
    for one in data:
        assert trained.decode_bytes(trained.encode(one)) == one
    assert trained.decode(trained.encode(b"caf\xe9 au lait")) == "caf\ufffd au lait"


@many(100, 1000)
@pytest.mark.parametrize("size", [1, 7, 150, 2**14])
def test_blocks_have_the_same_ids_as_the_whole_wherever_the_stream_is_cut(tokenizer, size, n):
    rng = random.Random(size)
    for seed in range(n):
        text = fuzzed(seed) * 3 + fuzzed(seed + 1)
        parts = list(blocks(cut_at_random(text, rng), size))
        assert "".join(parts) == text
        ids = np.concatenate([tokenizer.encode(part) for part in parts])
        assert np.array_equal(ids, tokenizer.encode(text))


@pytest.mark.parametrize("snippets", [SNIPPETS, ("'", "l", "re", "a" * 30, "\ud800" * 25)])
def test_a_long_stream_has_the_same_ids_as_the_whole(tokenizer, snippets, monkeypatch):
    text = "".join(random.Random(1).choices(snippets, k=20_000))
    ids = list(tokenizer.encode_stream(cut_at_random(text, random.Random(2))))
    assert len(ids) > 1
    monkeypatch.setattr("minilm.tokenizer.BLOCK", len(text) + 1)
    assert np.array_equal(np.concatenate(ids), tokenizer.encode(text))


@many(40, 1000)
def test_training_equals_counting_everything_again_before_each_merge(n):
    for seed in range(n):
        rng = random.Random(seed)
        alphabet = rng.choice(["ab", "abc ", "a'st \n", "xyzé猫 .", "aA1! \t"])
        texts = ["".join(rng.choices(alphabet, k=rng.randrange(80))) for _ in range(4)]
        trained = Tokenizer.train([[text] for text in texts], N_BASE + 40)
        assert trained.merges == naive_merges(texts, 40)


def test_the_vocabulary_depends_on_no_order_of_documents_nor_of_chunks():
    rng = random.Random(0)
    texts = [" ".join(rng.choices((ENGLISH + FOREIGN).split(), k=50)) for _ in range(30)]
    expected = Tokenizer.train([[text] for text in texts], vocab_size=400)
    rng.shuffle(texts)
    chunked = [cut_at_random(text, rng) for text in texts]
    assert Tokenizer.train(chunked, vocab_size=400).merges == expected.merges
    assert Tokenizer.train(iter(chunked), vocab_size=400).merges == expected.merges


def test_the_vocabulary_does_not_depend_on_the_hash_seed():
    program = "from minilm.tokenizer import *; print(Tokenizer.train([[TEXT]], 330).fingerprint)"
    program = program.replace("TEXT", repr(ENGLISH + "abcdefghijkl lkjihgfedcba " * 2))
    command = [sys.executable, "-c", program]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    prints = {
        subprocess.check_output(command, env=env | {"PYTHONHASHSEED": seed}) for seed in "012"
    }
    assert len(prints) == 1 and len(prints.pop().strip()) == 16


def test_a_small_corpus_gives_a_smaller_vocabulary_of_pairs_that_occur_twice():
    assert Tokenizer.train([[], ["ab", "cddd"]], vocab_size=1000).vocab_size == N_BASE
    assert Tokenizer.train([["aaaa"]], vocab_size=N_BASE).vocab_size == N_BASE
    assert Tokenizer.train([["ab"], ["ab"]], vocab_size=1000).merges == [(100, 101)]


def test_where_there_is_text_enough_the_vocabulary_is_as_large_as_asked_for():
    rng = random.Random(1)
    words = ["".join(rng.choices("abcdefgh", k=5)) for _ in range(300)]
    for vocab_size in (N_BASE + 1, 2 * N_BASE, 2 * N_BASE + 50):
        assert Tokenizer.train([[" ".join(words * 2)]], vocab_size).vocab_size == vocab_size


def test_a_vocabulary_may_fill_uint16_and_no_more():
    pairs = [(a, b) for a in range(N_SPECIAL, N_BASE) for b in range(N_SPECIAL, N_BASE)]
    full = Tokenizer(pairs[: 2**16 - N_BASE])
    last = full.decode_bytes([2**16 - 1])
    assert full.decode_bytes(full.encode(last)) == last
    with pytest.raises(UserError):
        Tokenizer(pairs[: 2**16 - N_BASE + 1])
    for vocab_size in (N_BASE - 1, 2**16 + 1):
        with pytest.raises(UserError, match=str(vocab_size)):
            Tokenizer.train([], vocab_size)


def test_offsets_give_back_the_text_and_span_whole_characters(tokenizer):
    for seed in range(200):
        text = fuzzed(seed)
        ids, offsets = tokenizer.encode_with_offsets(text)
        assert np.array_equal(ids, tokenizer.encode(text))
        covered = 0
        for i, (start, end) in zip(ids, offsets.tolist(), strict=True):
            assert covered - 1 <= start <= covered < max(end, covered + 1)
            assert tokenizer.decode_bytes([i]) in text[start:end].encode("utf-8", "surrogatepass")
            covered = end
        assert covered == len(text)
    ids, offsets = Tokenizer([]).encode_with_offsets("a猫b")
    assert offsets.tolist() == [[0, 1], [1, 2], [1, 2], [1, 2], [2, 3]]


ALL_OF_UNICODE = "".join(map(chr, range(0x110000)))


@many(200_000, 2**20)
@pytest.mark.parametrize(
    "unit",
    ["a", " ", "\n", "❤️", "'", "\ud800", "a ", "猫", "9", ALL_OF_UNICODE],
    ids=[
        "letter",
        "space",
        "newlines",
        "emoji",
        "quote",
        "surrogate",
        "words",
        "chinese",
        "digits",
        "unicode",
    ],
)
def test_no_repetition_is_slow_or_lost(tokenizer, unit, n):
    began = time.process_time()
    text = (unit * (n // len(unit) + 1))[:n]
    ids = np.concatenate(list(tokenizer.encode_stream([text])))
    assert tokenizer.decode(ids) == text
    Tokenizer.train([[text]], vocab_size=300)
    assert time.process_time() - began < 30  # all of Unicode takes eight, the others two


def test_no_more_pieces_are_remembered_than_fit(monkeypatch):
    tokenizer = make_tokenizer()
    monkeypatch.setattr(minilm.tokenizer, "CACHE_SIZE", 10)
    for text in (FOREIGN, ENGLISH):
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert len(tokenizer._cache) <= 10


def test_special_tokens_arise_only_when_asked_for(tokenizer):
    text = "<mask> a<pad><doc> <mask><mas k>"
    assert (tokenizer.encode(text) >= N_SPECIAL).all()
    ids = tokenizer.encode(text, special=True)
    assert [i for i in ids if i < N_SPECIAL] == [MASK, PAD, DOC, MASK]
    assert tokenizer.decode(ids) == text


def test_an_id_out_of_range_is_refused(tokenizer):
    for wrong in (-1, 400, 2**40):
        with pytest.raises(UserError, match=str(wrong)):
            tokenizer.decode([399, wrong])
