"""tokenizer.json: it gives back the tokenizer that was saved, to us and to Hugging Face, or an
error."""

import json
import random
import re
from contextlib import suppress

import numpy as np
import pytest
from test_tokenizer import ENGLISH, FOREIGN, fuzzed, make_tokenizer, many

from minilm.config import UserError
from minilm.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


def test_saving_and_loading_gives_the_same_tokenizer_in_the_same_bytes(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "one.json")
    loaded = Tokenizer.load(tmp_path / "one.json")
    loaded.save(tmp_path / "two.json")
    with pytest.raises(UserError, match="absent"):
        Tokenizer.load(tmp_path / "absent.json")
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    assert loaded.merges == tokenizer.merges
    assert loaded.fingerprint == tokenizer.fingerprint
    assert Tokenizer([(100, 101)]).fingerprint != Tokenizer([(101, 100)]).fingerprint
    assert np.array_equal(loaded.encode(ENGLISH), tokenizer.encode(ENGLISH))


EDITS = {
    "merges of unknown tokens": lambda spec: spec["model"]["merges"].append(["no", "such"]),
    "merge of three": lambda spec: spec["model"]["merges"][0].append("a"),
    "merges reversed": lambda spec: spec["model"]["merges"].reverse(),
    "ids exchanged": lambda spec: spec["model"]["vocab"].update(a=101, b=100),
    "id of a wrong type": lambda spec: spec["model"]["vocab"].update(t=119.5),
    "other special token": lambda spec: spec["added_tokens"][1].update(content="[M]"),
    "other pattern": lambda spec: spec["pre_tokenizer"]["pretokenizers"][0].update(pattern=""),
}


@pytest.mark.parametrize("edit", [*EDITS, b"", b"[]", b"\xff\xfe{", b"[" * 10**6, b'{"model": 1}'])
def test_a_file_that_was_edited_or_is_no_tokenizer_is_refused(tokenizer, tmp_path, edit):
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    if isinstance(edit, bytes):
        path.write_bytes(edit)
    else:
        spec = json.loads(path.read_bytes())
        EDITS[edit](spec)
        path.write_text(json.dumps(spec), encoding="utf-8")
    with pytest.raises(UserError, match=re.escape(str(path))) as refused:
        Tokenizer.load(path)
    assert "\n" not in str(refused.value)


@many(200, 1000)
def test_a_damaged_file_gives_an_error_or_the_same_tokenizer(tokenizer, tmp_path, n):
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    whole = path.read_bytes()
    rng = random.Random(0)
    for _ in range(n):
        damaged = bytearray(whole)
        at, other = rng.randrange(len(whole)), rng.randrange(len(whole) - 8)
        change = rng.randrange(4)
        if change == 0:  # a bit flipped
            damaged[at] ^= 1 << rng.randrange(8)
        elif change == 1:  # a digit or letter exchanged
            damaged[at] = rng.choice(b"0123456789abcxyz")
        elif change == 2:  # a part copied over another
            damaged[at : at + 8] = whole[other : other + 8]
        else:
            del damaged[at : at + rng.randrange(1, 20)]
        path.write_bytes(damaged)
        with suppress(UserError):
            loaded = Tokenizer.load(path)
            assert (loaded.merges, loaded.fingerprint) == (tokenizer.merges, tokenizer.fingerprint)


IMPOSSIBLE = {
    "of a special token": [(1, 100)],
    "of itself": [(100, 259)],
    "abc in two ways": [(100, 101), (101, 102), (259, 102), (100, 260)],
    "a token of megabytes": [(100, 100), *((i, i) for i in range(259, 280))],
}


@pytest.mark.parametrize("merges", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_merges_that_no_training_gives_are_refused(merges):
    with pytest.raises(UserError):
        Tokenizer(merges)


def test_hugging_face_reads_the_file_and_gives_the_same_ids_and_offsets(tokenizer, tmp_path):
    hf = pytest.importorskip("tokenizers")
    tokenizer.save(tmp_path / "tokenizer.json")
    theirs = hf.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    marked = "The <mask> sat.<doc><pad> 'll"
    assert theirs.encode(marked).ids == tokenizer.encode(marked, special=True).tolist()
    theirs.encode_special_tokens = True
    for text in (ENGLISH, FOREIGN, *(fuzzed(seed, valid=True) for seed in range(400))):
        ids, offsets = tokenizer.encode_with_offsets(text)
        encoding = theirs.encode(text)
        assert encoding.ids == ids.tolist()
        assert encoding.offsets == [tuple(pair) for pair in offsets.tolist()]
        assert theirs.decode(encoding.ids, skip_special_tokens=False) == text
