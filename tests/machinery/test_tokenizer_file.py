"""tokenizer.json gives back what was saved, to us and to Hugging Face, or an error."""

import json
import os
import random
import re
from contextlib import suppress

import pytest

from minilm.config import UserError
from minilm.corpora.tokenizer_file import load_tokenizer, to_json
from minilm.fast.bpe import FastTokenizer
from minilm.io.durable import LARGEST
from minilm.tokenizer import Tokenizer
from tests.book.test_tokenizer import TEXTS, fuzzed


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(TEXTS, 400)


@pytest.fixture
def path(tokenizer, tmp_path):
    (tmp_path / "tokenizer.json").write_text(to_json(tokenizer), encoding="utf-8")
    return tmp_path / "tokenizer.json"


def test_loading_gives_the_same_tokenizer_and_saving_it_the_same_text(tokenizer, path):
    loaded = load_tokenizer(path)
    assert type(loaded) is FastTokenizer and loaded.merges == tokenizer.merges
    assert loaded.fingerprint == tokenizer.fingerprint and to_json(loaded) == to_json(tokenizer)
    exported = json.loads(path.read_bytes()) | {"post_processor": {"type": "<doc> around a text"}}
    path.write_text(json.dumps(exported))
    assert load_tokenizer(str(path)).fingerprint == tokenizer.fingerprint


EDITS = {
    "merges of unknown tokens": lambda spec: spec["model"]["merges"].append(["no", "such"]),
    "merge of three": lambda spec: spec["model"]["merges"][0].append("a"),
    "merges reversed": lambda spec: spec["model"]["merges"].reverse(),
    "ids exchanged": lambda spec: spec["model"]["vocab"].update(a=101, b=100),
    "id of a wrong type": lambda spec: spec["model"]["vocab"].update(t=119.5),
    "a token more": lambda spec: spec["model"]["vocab"].update(zzz=400),
    "other special token": lambda spec: spec["added_tokens"][1].update(content="[M]"),
    "other pattern": lambda spec: spec["pre_tokenizer"]["pretokenizers"][0].update(pattern=""),
    "a normalizer": lambda spec: spec.update(normalizer={"type": "Lowercase"}),
}
NO_TOKENIZER = [b"", b"[]", b"\xff\xfe{", b"[" * 10**6, b'{"model": 1}', b'{"model": {"vocab": 0}}']


@pytest.mark.parametrize("edit", [*EDITS, *NO_TOKENIZER])
def test_a_file_that_was_edited_or_is_no_tokenizer_is_refused_in_one_line(path, edit):
    if isinstance(edit, str):
        spec = json.loads(path.read_bytes())
        EDITS[edit](spec)
        edit = json.dumps(spec).encode()
    path.write_bytes(edit)
    with pytest.raises(UserError, match=f"^{re.escape(str(path))}: [^\n]*$"):
        load_tokenizer(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes as Unix has them")
def test_only_a_regular_file_of_a_bounded_size_is_read(path, tmp_path):
    os.mkfifo(tmp_path / "pipe")  # reading it would wait for ever
    for wrong in (tmp_path, tmp_path / "absent.json", tmp_path / "pipe"):
        with pytest.raises(UserError, match=re.escape(str(wrong))):
            load_tokenizer(wrong)
    os.truncate(path, LARGEST + 1)
    with pytest.raises(UserError, match="larger"):
        load_tokenizer(path)


def test_a_damaged_file_gives_an_error_or_the_same_tokenizer(tokenizer, path):
    whole, rng = path.read_bytes(), random.Random(0)
    for change in [0, 1, 2, 3] * 30:
        damaged, at = bytearray(whole), rng.randrange(len(whole))
        if change == 0:  # a bit flipped
            damaged[at] ^= 1 << rng.randrange(8)
        elif change == 1:  # a digit or letter exchanged
            damaged[at] = rng.choice(b"0123456789abcxyz")
        elif change == 2:  # a part copied over another
            other = rng.randrange(len(whole) - 8)
            damaged[at : at + 8] = whole[other : other + 8]
        else:
            del damaged[at : at + rng.randrange(1, 20)]
        path.write_bytes(damaged)
        with suppress(UserError):
            loaded = load_tokenizer(path)
            assert (loaded.merges, loaded.fingerprint) == (tokenizer.merges, tokenizer.fingerprint)


def test_hugging_face_reads_the_file_and_gives_the_same_ids_and_offsets(tokenizer, path):
    theirs = pytest.importorskip("tokenizers").Tokenizer.from_file(str(path))
    assert theirs.encode("<mask>a<doc><pad>").ids == [1, 100, 2, 0]
    theirs.encode_special_tokens = True
    fuzz = (fuzzed(seed).encode("utf-8", "ignore").decode() for seed in range(300))
    for text in (*TEXTS[:2], *fuzz):
        ids, spans = tokenizer.encode_with_offsets(text)
        encoding = theirs.encode(text)
        assert encoding.ids == ids.tolist()
        assert encoding.offsets == [tuple(span) for span in spans.tolist()]
        assert theirs.decode(encoding.ids, skip_special_tokens=False) == text
