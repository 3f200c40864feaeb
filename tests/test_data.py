"""From text to windows: nothing lost, nothing mixed, and every draw a function of its step."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from small import everything

from minilm import data
from minilm.config import UserError
from minilm.data import Windows, draws, evaluation_windows, prepare, unigram_entropy
from minilm.objectives import causal
from minilm.tokenizer import DOC, Tokenizer

LENGTH = 8
TEXTS = [
    f"Document {n} begins.\nIt says {' '.join(f'word{n * i}' for i in range(n % 17))} – and ends."
    for n in range(300)
]


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """A table of TEXTS; what is prepared lies beside it."""
    monkeypatch.chdir(tmp_path)
    lines = [json.dumps({"text": text}) for text in TEXTS]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return ["texts.jsonl"]


def documents_of(tokenizer, tokens):
    """The texts that a token file holds."""
    ends = np.flatnonzero(np.asarray(tokens) == DOC)
    assert len(ends) == 0 or ends[-1] == len(tokens) - 1  # nothing after the last <doc>
    starts = [0, *(ends + 1)]
    return [tokenizer.decode(tokens[a:b]) for a, b in zip(starts, ends, strict=False)]


def test_draws_differ_by_seed_step_and_purpose_and_come_again():
    def numbers(*arguments):
        return draws(*arguments).integers(0, 2**62, 4).tolist()

    different = [(0, 0, "masks"), (0, 0, "windows"), (0, 1, "masks"), (1, 0, "masks")]
    assert len({tuple(numbers(*arguments)) for arguments in different}) == 4
    assert all(numbers(*arguments) == numbers(*arguments) for arguments in different)


@pytest.mark.parametrize("n_tokens", [9, 10, 16, 17, 24, 25, 100, 103])
def test_every_window_comes_once_an_epoch_and_no_two_overlap(n_tokens):
    windows = Windows(np.arange(n_tokens), LENGTH, seed=0)
    n = windows.per_epoch
    for epoch in range(20):
        found = windows.batch(epoch, batch_size=n)  # a batch as large as an epoch
        assert found.shape == (n, LENGTH + 1)
        starts = np.sort(found[:, 0])
        assert set(np.diff(starts)) <= {LENGTH}
        assert starts[0] >= 0 and starts[-1] + LENGTH < n_tokens
    assert n >= max(1, (n_tokens - 1) // LENGTH - 1)


def test_a_window_is_a_stretch_of_the_file_and_its_targets_are_the_tokens_after():
    tokens = np.random.default_rng(1).integers(0, 60_000, 500).astype(np.uint16)
    text = tokens.tobytes()
    task = causal(Windows(tokens, LENGTH, seed=0).batch(3, batch_size=5))
    assert task.inputs.dtype == task.targets.dtype == np.int64
    for read, said in zip(task.inputs, task.targets, strict=True):
        start = text.index(read.astype(np.uint16).tobytes()) // 2
        assert np.array_equal(tokens[start + 1 : start + 1 + LENGTH], said)


def test_order_and_cuts_differ_between_epochs_and_between_seeds():
    def epoch(seed, number):
        windows = Windows(np.arange(1000), LENGTH, seed)
        return windows.batch(number, batch_size=windows.per_epoch)[:, 0]

    epochs = [epoch(0, number) for number in range(20)] + [epoch(1, 0)]
    assert len({starts.tobytes() for starts in epochs}) == 21
    assert len({frozenset(starts) for starts in epochs}) > LENGTH / 2  # of the LENGTH cuts
    steps = np.diff(np.concatenate(epochs))
    assert 0.4 < (steps > 0).mean() < 0.6


def test_the_batch_of_a_step_does_not_depend_on_what_was_asked_before():
    tokens = np.arange(200)  # some 23 windows: batches of 5 cross from epoch to epoch
    history = Windows(tokens, LENGTH, seed=0)
    in_order = [history.batch(step, batch_size=5) for step in range(30)]
    for step in (29, 3, 14, 4):
        data._epoch_order.cache_clear()
        assert np.array_equal(Windows(tokens, LENGTH, 0).batch(step, 5), in_order[step])
        assert np.array_equal(history.batch(step, 5), in_order[step])


def test_evaluation_reads_windows_side_by_side_or_evenly_spaced():
    windows = evaluation_windows(np.arange(42), LENGTH)
    assert windows[:, 0].tolist() == [0, 8, 16, 24, 32]
    assert windows[-1].tolist() == list(range(32, 41))
    few = evaluation_windows(np.arange(42), LENGTH, most=2)  # of the whole text, not its beginning
    assert few.shape == (2, LENGTH + 1) and few[:, 0].tolist() == [0, 16]


@pytest.mark.parametrize("read", [evaluation_windows, lambda t, n: Windows(t, n, seed=0)])
def test_a_text_shorter_than_one_window_is_refused(read):
    read(np.arange(LENGTH + 1), LENGTH)
    for n in (LENGTH, LENGTH - 3):
        with pytest.raises(UserError, match=rf"has {n} tokens.*--max-length {LENGTH}"):
            read(np.arange(n), LENGTH)


def test_every_document_is_prepared_whole_and_is_in_one_part_only(corpus):
    text = prepare(corpus, vocab_size=400)
    train, valid = (documents_of(text.tokenizer, part) for part in (text.train, text.valid))
    assert sorted(train + valid) == sorted(TEXTS)  # all of them, once, and apart
    assert train == [t for t in TEXTS if t in train]  # in their order
    assert 0.01 < len(text.valid) / len(text.train) < 0.2


def test_a_document_stays_in_its_part_whatever_else_is_in_the_corpus(corpus, tmp_path):
    before = prepare(corpus, vocab_size=400)
    lines = [json.dumps({"text": text}) for text in ["A new one.", *TEXTS[::-1]]]
    (tmp_path / "more.jsonl").write_text("\n".join(lines), encoding="utf-8")
    after = prepare(["more.jsonl"], vocab_size=400)
    valid, valid_after = (documents_of(t.tokenizer, t.valid) for t in (before, after))
    assert set(valid) == set(valid_after) - {"A new one."}


@pytest.mark.parametrize("would_be_valid", [False, True])
def test_a_single_document_is_split_at_its_end(tmp_path, monkeypatch, would_be_valid):
    monkeypatch.chdir(tmp_path)
    parts = {text: next(data._groups([[text]], 1))[0][1] for text in TEXTS}
    document = next(text for text, is_valid in parts.items() if is_valid is would_be_valid)
    (tmp_path / "one.txt").write_text(document, encoding="utf-8")
    text = prepare(["one.txt"], vocab_size=259)
    tokens = np.concatenate([text.train, text.valid])
    assert documents_of(text.tokenizer, tokens) == [document]
    assert 0 <= len(text.valid) - data.VALID_SHARE * len(tokens) < 1


def test_where_too_many_documents_would_be_validation_text_valid_is_the_end_of_both(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    parts = {text: next(data._groups([[text]], 1))[0][1] for text in TEXTS}
    chosen = [text for text in TEXTS if parts[text]][:5]
    chosen += [text for text in TEXTS if not parts[text]][:5]
    lines = [json.dumps({"text": text}) for text in chosen]
    (tmp_path / "few.jsonl").write_text("\n".join(lines), encoding="utf-8")
    text = prepare(["few.jsonl"], vocab_size=259)
    tokens = np.concatenate([text.train, text.valid])
    assert documents_of(text.tokenizer, tokens) == chosen[5:] + chosen[:5]
    assert 0 <= len(text.valid) - data.VALID_SHARE * len(tokens) < 1


def test_a_text_is_prepared_once_and_anew_where_anything_changes(corpus, tmp_path, monkeypatch):
    written = []

    def count(documents, tokenizer, folder, write=data._write_tokens):
        written.append(folder)
        write(documents, tokenizer, folder)

    monkeypatch.setattr(data, "_write_tokens", count)
    first, second = prepare(corpus, 400), prepare(corpus, 400)
    assert len(written) == 1
    assert np.array_equal(first.train, second.train) and np.array_equal(first.valid, second.valid)
    assert first.unigram_entropy == second.unigram_entropy
    assert first.tokenizer.fingerprint == second.tokenizer.fingerprint
    prepare(corpus, 300)
    with open(tmp_path / "texts.jsonl", "a", encoding="utf-8") as file:
        file.write('\n{"text": "one more"}')
    prepare(corpus, 400)
    monkeypatch.setattr(data, "FORMAT", data.FORMAT + 1)
    prepare(corpus, 400)
    monkeypatch.setattr(data, "VALID_SHARE", 0.1)
    prepare(corpus, 400)
    assert len(set(written)) == len(written) == 5


DAMAGE = {
    "a bit": lambda content: bytes([content[0] ^ 1]) + content[1:],
    "the end": lambda content: content[:-2],
    "a page of zeros": lambda content: bytes(len(content)),
    "more": lambda content: content + b"\0\0",
    "all": lambda content: None,
}


@pytest.mark.parametrize("name", ["train.bin", "valid.bin", "tokenizer.json", "meta.json"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_prepared_text_is_made_anew_and_said(corpus, name, damage, capsys):
    first = prepare(corpus, 300)
    whole = everything("data")
    assert "damaged" not in capsys.readouterr().err
    path = next(path for path in whole if path.name == name)
    content = DAMAGE[damage](path.read_bytes())
    path.unlink()  # which leaves what is open as it is
    if content is not None:
        path.write_bytes(content)
    again = prepare(corpus, 300)
    assert everything("data") == whole and np.array_equal(again.train, first.train)
    assert "is damaged and made anew" in capsys.readouterr().err


def test_two_processes_that_prepare_a_text_at_once_use_the_files_of_the_faster(corpus, monkeypatch):
    faster = []

    def files():
        return {path: path.stat().st_mtime_ns for path in Path("data").rglob("*") if path.is_file()}

    def overtaken(documents, tokenizer, folder, write=data._write_tokens):
        monkeypatch.setattr(data, "_write_tokens", write)
        write(documents, tokenizer, folder)
        own = {path for path in files() if folder in path.parents}
        faster.extend([prepare(corpus, 400), {k: v for k, v in files().items() if k not in own}])

    monkeypatch.setattr(data, "_write_tokens", overtaken)
    slower = prepare(corpus, 400)
    found = [documents_of(faster[0].tokenizer, part) for part in (faster[0].train, slower.valid)]
    assert sorted(found[0] + found[1]) == sorted(TEXTS)
    assert files() == faster[1] and len(faster[1]) == 4


def test_where_nothing_can_be_prepared_is_said(corpus, tmp_path):
    (tmp_path / "data").touch()
    with pytest.raises(UserError, match=r"data.prepared.* cannot be written \("):
        prepare(corpus, 400)


def test_a_tokenizer_that_is_given_is_used(corpus):
    given = Tokenizer.train([["other words, other words"]], 270)
    text = prepare(corpus, vocab_size=400, tokenizer=given)
    assert text.tokenizer.fingerprint == given.fingerprint
    assert text.train.max() < given.vocab_size < prepare(corpus, 400).tokenizer.vocab_size


def test_an_interrupted_preparation_is_done_again(corpus, monkeypatch):
    def interrupted(documents, tokenizer, folder, write=data._write_tokens):
        write(documents, tokenizer, folder)
        (folder / "train.bin").write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as now, pytest.raises(KeyboardInterrupt):
        now.setattr(data, "_write_tokens", interrupted)
        prepare(corpus, 400)
    text = prepare(corpus, 400)
    found = [documents_of(text.tokenizer, part) for part in (text.train, text.valid)]
    assert sorted(found[0] + found[1]) == sorted(TEXTS)


def test_many_processes_write_what_one_writes(monkeypatch):
    tokenizer = Tokenizer.train([TEXTS], 300)
    groups, blocks = data._groups, data.blocks
    monkeypatch.setattr(data, "blocks", lambda document, size: blocks(document, 40))

    def encode(group_size):
        monkeypatch.setattr(data, "_groups", lambda documents, size: groups(documents, group_size))
        parts = list(data._encode([[text] for text in TEXTS], tokenizer))
        return b"".join(t for v, t in parts if v), b"".join(t for v, t in parts if not v)

    at_once = encode(2**30)
    texts = [documents_of(tokenizer, np.frombuffer(tokens, np.uint16)) for tokens in at_once]
    assert all(texts) and sorted(texts[0] + texts[1]) == sorted(TEXTS)  # though cut into blocks
    assert encode(600) == at_once  # some forty groups, in several processes


def test_the_unigram_entropy_by_hand():
    train, valid = np.array([0, 0, 1], np.uint16), np.array([0, 3], np.uint16)
    # Each word of four counts once more than it occurs: 3, 2, 1, 1 of 7.
    by_hand = -(math.log(3 / 7) + math.log(1 / 7)) / 2
    assert unigram_entropy(train, valid, 4) == pytest.approx(by_hand)


def test_a_text_of_equally_frequent_words_has_the_entropy_ln_v():
    words = np.repeat(np.arange(50, dtype=np.uint16), 30_000)  # more than is counted at a time
    assert unigram_entropy(words, words[::1000], 50) == pytest.approx(math.log(50))
