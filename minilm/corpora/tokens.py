"""A corpus becomes files of tokens, once; later they are opened."""

import contextlib
import functools
import json
import os
import re
import shutil
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from minilm import corpora
from minilm.config import UserError
from minilm.corpora.files import VALID_SHARE, held_out
from minilm.corpora.tables import note
from minilm.corpora.tokenizer_file import load_tokenizer, to_json
from minilm.corpora.workers import parallel
from minilm.fast.bpe import FastTokenizer
from minilm.io.durable import read_bounded, sha256_of, writing
from minilm.tokenizer import Tokenizer

FORMAT = 4  # of a prepared text
PREPARED = Path("data", "prepared")
BLOCK = 2**18  # characters that are encoded at once
# A token ends before a blank whatever came before it, and may come after; without blanks, a block
# ends somewhere.
_BLOCK = re.compile(rf"(?s:.{{{BLOCK}}})[^ \t-\r]{{0,{BLOCK}}}")


class PreparedText(NamedTuple):
    """A corpus as tokens, in files that need not fit into memory."""

    tokenizer: Tokenizer
    train: np.ndarray  # (N,) uint16, memory-mapped
    valid: np.ndarray  # (M,) uint16, memory-mapped
    unigram_entropy: float  # nats a token of valid, by the frequencies of the tokens of train


def prepare(config, tokenizer: Tokenizer | None = None) -> PreparedText:
    """Tokenize what `documents` reads, of the data and by the columns that the options name, into
    data/prepared/, once; later calls open the files, or write them anew where they are no longer
    what was written. Without a tokenizer, one of their vocab_size is learnt. Raises UserError for
    data that cannot be read or are too little."""
    data, how = config.data, (config.text_column, config.encoding, config.document_separator)
    where = [item if item in corpora.NAMES else str(Path(item).resolve()) for item in data]
    empty = [Tokenizer([]).fingerprint, config.vocab_size]
    source = [FORMAT, VALID_SHARE, where, tokenizer.fingerprint if tokenizer else empty, *how]
    name = f"{zlib.crc32(json.dumps(source).encode()):08x}-{corpora.fingerprint(data)}"
    folder = PREPARED / name

    def blocks(doing: str) -> Iterator[list[tuple[str, bool, bool]]]:
        """The blocks of all documents, from the first on, some megabytes at once."""
        group, size = [], 0
        with tqdm(None, doing, unit=" characters", unit_scale=True, delay=1, disable=None) as bar:
            for document in corpora.documents(data, *how):
                for block in cut(*document):
                    group.append(block)
                    size += len(block[0])
                    bar.update(len(block[0]))
                    if size > 4 * BLOCK:
                        yield group
                        group, size = [], 0
            yield group

    if (entropy := _verified(folder)) is None:
        with writing(folder):
            PREPARED.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(".part", name, PREPARED) as beside:
                new = Path(beside, name)
                new.mkdir()
                if tokenizer is None:
                    groups = blocks("learning a vocabulary")
                    texts = (text for group in groups for text, *_ in group)
                    tokenizer = FastTokenizer.train(texts, config.vocab_size)
                _write_tokens(blocks("tokenizing"), tokenizer, new)
                if _verified(folder) is None:  # nor has another process made it
                    shutil.rmtree(folder, ignore_errors=True)
                with contextlib.suppress(OSError):  # another process may have been faster
                    new.rename(folder)
        with contextlib.suppress(OSError):  # another process may remove the same
            for path in PREPARED.iterdir():
                older = path.name.startswith(name[:9]) and path != folder  # what the files held
                if path.suffix == ".part":  # a day ago: what a killed process has left
                    older = time.time() - path.stat().st_mtime > 86_400
                if older:
                    shutil.rmtree(path, ignore_errors=True)
            size = sum(path.stat().st_size for path in PREPARED.rglob("*") if path.is_file())
            note(f"{PREPARED} holds {size / 1e6:,.0f} MB of tokens, which you can delete any time")
        entropy = _verified(folder)
    tokenizer = tokenizer or load_tokenizer(folder / "tokenizer.json")
    files = (np.memmap(folder / file, np.uint16, mode="r") for file in ("train.bin", "valid.bin"))
    return PreparedText(tokenizer, *files, entropy)


def evenly(tokens: np.ndarray, most: int | None, part: int = 4096) -> np.ndarray:
    """`most` of the tokens (N,), in parts evenly spaced over the text; None: all of them."""
    if most is None or most >= len(tokens):
        return tokens
    part = min(part, most)
    starts = np.linspace(0, len(tokens) - part, -(-most // part)).astype(int)
    return np.concatenate([tokens[start : start + part] for start in starts])[:most]


def cut(source: str, document: str) -> Iterator[tuple[str, bool, bool]]:
    """Cut a text into blocks where a token ends anyway; yield each, whether it is the last, and
    whether the text is one to validate on, which its source decides."""
    is_valid, start = held_out(source), 0
    while (match := _BLOCK.match(document, start)) and match.end() < len(document):
        yield match[0], False, is_valid
        start = match.end()
    yield document[start:], True, is_valid


def _verified(folder: Path) -> float | None:
    """The unigram entropy of a prepared text; None where there is none, or a file differs from what
    was written."""
    with contextlib.suppress(Exception):  # whatever is wrong with it
        meta = json.loads(read_bounded(folder / "meta.json"))
        if all(sha256_of(folder / name) == sha256 for name, sha256 in meta["files"].items()):
            return float(meta["unigram_entropy"])
    return None


def _write_tokens(groups: Iterator, tokenizer: Tokenizer, folder: Path) -> None:
    """Write train.bin and valid.bin: the tokens of every document, then <doc>; and beside them the
    tokenizer, the unigram entropy and the sha256 of each file. Where the hashes of the documents
    give no fitting share to validate on, it is the end of all tokens."""
    train, valid = folder / "train.bin", folder / "valid.bin"
    with open(train, "wb") as train_file, open(valid, "wb") as valid_file:
        for encoded in parallel(functools.partial(_encode, tokenizer), groups):
            for is_valid, tokens in encoded:
                (valid_file if is_valid else train_file).write(tokens)
    n, n_valid = (train.stat().st_size + valid.stat().st_size) // 2, valid.stat().st_size // 2
    if n < 32:
        raise UserError(f"the text has {n} tokens in all, too few to train on: give more text")
    least = max(int(0.2 * VALID_SHARE * n), min(256, n // 5))
    if not least <= n_valid <= 4 * VALID_SHARE * n:
        n_valid = max(int(VALID_SHARE * n), least)
        with open(train, "ab") as file:
            file.write(valid.read_bytes())
        valid.write_bytes(np.memmap(train, np.uint16, mode="r")[-n_valid:].tobytes())
        os.truncate(train, 2 * (n - n_valid))  # two bytes a token
        if n < 20 * 256:
            note(f"a short text, {n:,} tokens: its last {n_valid:,} are the validation part")
    (folder / "tokenizer.json").write_text(to_json(tokenizer), encoding="utf-8", newline="\n")
    tokens = (np.memmap(path, np.uint16, mode="r") for path in (train, valid))
    entropy = unigram_entropy(*tokens, tokenizer.vocab_size)
    files = {path.name: sha256_of(path) for path in folder.iterdir()}
    meta = json.dumps({"unigram_entropy": entropy, "files": files})
    (folder / "meta.json").write_text(meta, encoding="utf-8")


def _encode(tokenizer: Tokenizer, group: list[tuple[str, bool, bool]]) -> list[tuple[bool, bytes]]:
    end = np.array([tokenizer.special.eos], np.uint16).tobytes()
    return [(is_valid, tokenizer.encode(text).tobytes() + end * ends)
            for text, ends, is_valid in group]  # fmt: skip


def unigram_entropy(train: np.ndarray, valid: np.ndarray, vocab_size: int) -> float:
    """The cross-entropy of valid (M,) under the frequencies of the tokens in train (N,), in nats a
    token: what a model reaches that has learnt how often each token occurs, and nothing else."""
    counts = np.ones(vocab_size)  # one of each, so that no token is impossible
    for start in range(0, len(train), 2**20):
        counts += np.bincount(train[start : start + 2**20], minlength=vocab_size)
    return float(-np.log(counts / counts.sum())[valid].mean())
