"""The fast learner and the fast tokenizer equal the book's page, also where nothing has spaces."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from minilm import tokenizer as book
from minilm.fast import bpe
from minilm.tokenizer import N_BASE, Tokenizer, count_pieces
from tests.book.test_tokenizer import TEXTS, fuzzed, random_texts


def without_spaces(characters: int) -> str:
    rng = random.Random(0)
    character = lambda: chr(0x4E00 + int(rng.paretovariate(0.3)) % 999)
    words = [character() + character() for _ in range(500)]
    return "".join(rng.choices(words, k=characters // 2))


def test_the_fast_learner_learns_what_the_book_does():
    for seed in range(40):
        counts = count_pieces([*random_texts(seed), fuzzed(seed) * 2])
        assert bpe.learn_merges(counts, 60) == book.learn_merges(counts, 60), seed
    for texts, n in (([without_spaces(2000)], 300), (TEXTS, 600), ([], 5), (["a"], 5)):
        assert bpe.learn_merges(count_pieces(texts), n) == book.learn_merges(count_pieces(texts), n)


def test_ids_up_to_the_last_of_uint16_are_learnt_and_applied(monkeypatch):
    merges = [(3 + i // 256, 3 + i % 256) for i in range(2**16 - N_BASE)]
    last = bytes([merges[-1][0] - 3, merges[-1][1] - 3])
    full = bpe.FastTokenizer(merges)
    assert full.cache["ab"] == np.array([N_BASE + merges.index((100, 101))], np.uint16).tobytes()
    assert full.token_bytes[2**16 - 1] == last
    monkeypatch.setattr(bpe, "N_BASE", 65_400)  # as if so many had been learnt before
    monkeypatch.setattr(book, "N_BASE", 65_400)
    counts = count_pieces([without_spaces(1000)])
    learnt = bpe.learn_merges(counts, 130)
    assert learnt == book.learn_merges(counts, 130) and max(max(learnt)) > 65_400


def test_the_fast_tokenizer_gives_the_books_ids():
    fast = bpe.FastTokenizer.train([*TEXTS, without_spaces(3000)], 700)
    plain = Tokenizer(fast.merges)
    assert type(fast) is bpe.FastTokenizer and fast.fingerprint == plain.fingerprint
    texts = [*map(fuzzed, range(100)), without_spaces(5_000), "".join(map(fuzzed, range(300)))]
    for text in texts:
        assert np.array_equal(fast.encode(text), plain.encode(text))
        assert fast.encode(text).dtype == np.uint16
    found, expected = (one.encode_with_offsets(texts[0])[1] for one in (fast, plain))
    assert np.array_equal(found, expected)


def test_no_more_pieces_are_remembered_than_fit(monkeypatch):
    monkeypatch.setattr(bpe, "CACHE_SIZE", 10)
    fast = bpe.FastTokenizer.train(TEXTS, 400)
    for text in TEXTS * 2:
        assert fast.decode(fast.encode(text)) == text
        assert 0 < len(fast.cache) <= 10


def test_a_text_without_spaces_is_learnt_and_encoded_in_seconds():
    text = without_spaces(50_000)
    began = time.process_time()
    tokenizer = bpe.FastTokenizer.train([text], 1000)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert time.process_time() - began < 15  # about one


def test_the_vocabulary_does_not_depend_on_the_hash_seed():
    program = "from minilm.tokenizer import *; from minilm.fast.bpe import *; print(*("
    program += "one.train([TEXT], 330).fingerprint for one in (Tokenizer, FastTokenizer)))"
    program = program.replace("TEXT", repr("abcdefghijkl lkjihgfedcba " * 2))
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    prints = [
        subprocess.check_output([sys.executable, "-c", program], env=env | {"PYTHONHASHSEED": seed})
        for seed in "01"
    ]
    assert len({one for line in prints for one in line.split()}) == 1
