"""From raw text to batches: documents -> token files -> windows. For texts with labels see
`labelled.py`."""

import contextlib
import functools
import hashlib
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from minilm import corpora
from minilm.config import UserError
from minilm.corpora import Document
from minilm.durable import seal, sync, unseal, writing
from minilm.tokenizer import Tokenizer, blocks
from minilm.vocabularies import load_tokenizer

FORMAT = 2  # of a prepared text
VALID_SHARE = 0.05  # of the documents
PURPOSES = ("windows", "masks", "dropout", "valid", "labels", "batches", "sample", "resample")


def draws(seed: int, step: int, purpose: str) -> np.random.Generator:
    """The random draws for one purpose at one step. No other draw can move them, so that a resumed
    run draws what an uninterrupted one would have drawn."""
    return np.random.default_rng([seed, step, PURPOSES.index(purpose)])


class PreparedText(NamedTuple):
    """A corpus as tokens, in files that need not fit into memory."""

    tokenizer: Tokenizer
    train: np.ndarray  # (N,) uint16, memory-mapped
    valid: np.ndarray  # (M,) uint16, memory-mapped
    unigram_entropy: float  # nats a token of valid, by the word frequencies of train


def prepare(
    data: Sequence[str],
    vocab_size: int,
    tokenizer: Tokenizer | None = None,
    text_column: str = "text",
    encoding: str = "utf-8",
) -> PreparedText:
    """Tokenize a corpus into data/prepared/, once; later calls open the files, or write them anew
    where they are no longer what was written.

    data: names of corpora, or files and folders. Without a tokenizer, one of vocab_size is trained
    on them. Raises UserError where they cannot be read.
    """
    words = tokenizer.fingerprint if tokenizer else (Tokenizer([]).fingerprint, vocab_size)
    identity = [FORMAT, VALID_SHARE, words, corpora.fingerprint(data, text_column, encoding)]
    folder = Path("data", "prepared", f"{zlib.crc32(json.dumps(identity).encode()):08x}")

    def documents(doing: str) -> Iterator[Document]:
        """The corpus from its beginning, under a bar."""
        texts = corpora.documents(data, text_column, encoding)
        return tqdm(texts, doing, unit=" texts", delay=1, disable=None)

    meta = _verified(folder)
    if meta is None:
        if folder.exists():
            print(f"{folder} is damaged and made anew", file=sys.stderr)
        with writing(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            beside = Path(tempfile.mkdtemp(".part", folder.name, folder.parent))
            try:
                if tokenizer is None:
                    tokenizer = Tokenizer.train(documents("learning words"), vocab_size)
                _write_tokens(documents("tokenizing"), tokenizer, beside)
                for path in beside.iterdir():
                    sync(path)
                if _verified(folder) is None:  # nor has another process made it anew
                    shutil.rmtree(folder, ignore_errors=True)
                with contextlib.suppress(OSError):  # another process may have been faster
                    beside.rename(folder)
            finally:
                shutil.rmtree(beside, ignore_errors=True)
        meta = unseal(folder / "meta.json")
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    return PreparedText(tokenizer, *map(_open, _paths(folder)), float(meta["unigram_entropy"]))


def _verified(folder: Path) -> dict | None:
    """meta.json of a prepared text; None where there is none, or a file differs from what was
    written."""
    try:
        meta = unseal(folder / "meta.json")
        whole = all(_sha256(folder / name) == sha256 for name, sha256 in meta["files"].items())
    except (OSError, ValueError, LookupError, RecursionError):
        return None
    return meta if whole else None


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _paths(folder: Path) -> tuple[Path, Path]:
    return folder / "train.bin", folder / "valid.bin"


def _open(path: Path) -> np.ndarray:
    empty = path.stat().st_size == 0  # which cannot be memory-mapped
    return np.empty(0, np.uint16) if empty else np.memmap(path, np.uint16, mode="r")


def _write_tokens(documents: Iterable[Document], tokenizer: Tokenizer, folder: Path) -> None:
    """Write train.bin and valid.bin: the tokens of every document, then <doc>; and beside them the
    tokenizer, the unigram entropy and the sha256 of each file.

    A document goes to valid by a hash of how it begins, so that the split depends neither on order
    nor on what else is there. Where that fails for want of documents, valid is the end of train.
    """
    train, valid = _paths(folder)
    with open(train, "wb") as train_file, open(valid, "wb") as valid_file:
        for is_valid, tokens in _encode(documents, tokenizer):
            (valid_file if is_valid else train_file).write(tokens)
    sizes = train.stat().st_size, valid.stat().st_size
    if not 0.2 * VALID_SHARE < sizes[1] / max(sum(sizes), 1) < 4 * VALID_SHARE:
        with open(train, "r+b") as train_file:
            train_file.seek(0, os.SEEK_END)
            train_file.write(valid.read_bytes())
            cut = 2 * int(sum(sizes) // 2 * (1 - VALID_SHARE))  # two bytes a token
            train_file.seek(cut)
            valid.write_bytes(train_file.read())
            train_file.truncate(cut)
    tokenizer.save(folder / "tokenizer.json")
    entropy = unigram_entropy(_open(train), _open(valid), tokenizer.vocab_size)
    files = {path.name: _sha256(path) for path in folder.iterdir()}
    meta = {"unigram_entropy": str(entropy), "files": files}  # a word, as JSON knows no NaN
    (folder / "meta.json").write_bytes(seal(meta))


def _encode(documents: Iterable[Document], tokenizer: Tokenizer) -> Iterator[tuple[bool, bytes]]:
    """Yield (is this validation text, packed tokens), in order; by all cores if there is much."""
    groups = _groups(documents, 2**20)
    encode = functools.partial(_encode_group, tokenizer)
    few = list(islice(groups, 8))
    if len(few) < 8:
        for group in few:
            yield from encode(group)
        return
    with multiprocessing.get_context("spawn").Pool() as pool:
        while few:  # a pool's own imap would read the whole corpus ahead
            for encoded in pool.map(encode, few, chunksize=1):
                yield from encoded
            few = list(islice(groups, 8))


def _groups(documents: Iterable[Document], size: int) -> Iterator[list[tuple[str | None, bool]]]:
    """Group the documents' blocks into lists of about `size` characters. An entry is a block, or
    None for the end of a document, and whether it is validation text."""
    group, room = [], size
    for document in documents:
        is_valid = None
        for block in blocks(document, 2**20):
            if is_valid is None:
                beginning = block[:1000].encode("utf-8", "surrogatepass")
                is_valid = zlib.crc32(beginning) < VALID_SHARE * 2**32
            group.append((block, is_valid))
            room -= len(block)
            if room < 0:
                yield group
                group, room = [], size
        if is_valid is not None:
            group.append((None, is_valid))
    yield group


def _encode_group(tokenizer: Tokenizer, group: list) -> list[tuple[bool, bytes]]:
    end = np.array([tokenizer.special.end], np.uint16).tobytes()
    return [(is_valid, end if text is None else tokenizer.encode(text).tobytes())
            for text, is_valid in group]  # fmt: skip


def unigram_entropy(train: np.ndarray, valid: np.ndarray, vocab_size: int) -> float:
    """The cross-entropy of valid under the word frequencies of train, in nats a token: what a model
    reaches that has learnt how often each word occurs, and nothing else."""
    counts = np.ones(vocab_size)  # one of each, so that no word is impossible
    for start in range(0, len(train), 2**20):
        counts += np.bincount(train[start : start + 2**20], minlength=vocab_size)
    return float(-np.log(counts / counts.sum())[valid].mean()) if len(valid) else float("nan")


class Windows:
    """Windows of `length` + 1 tokens in a random order, each once an epoch.

    Which windows make up the batch of a step is a function of (seed, step, batch_size) alone.
    """

    def __init__(self, tokens: np.ndarray, length: int, seed: int):
        if len(tokens) <= length:
            raise UserError(
                f"the text has {len(tokens)} tokens, fewer than one window of --max-length "
                f"{length} and the token after it: give more text or a smaller --max-length"
            )
        self.tokens, self.length, self.seed = tokens, length, seed
        self.per_epoch = max(1, (len(tokens) - 1) // length - 1)

    def batch(self, step: int, batch_size: int) -> np.ndarray:
        """The windows of a step, (batch_size, length + 1) int64."""
        indices = range(step * batch_size, (step + 1) * batch_size)
        return np.stack([self._window(*divmod(index, self.per_epoch)) for index in indices])

    def _window(self, epoch: int, index: int) -> np.ndarray:
        offset, order = _epoch_order(self.seed, epoch, self.per_epoch)
        spare = len(self.tokens) - self.per_epoch * self.length - 1
        start = offset % min(self.length, spare + 1) + order[index] * self.length
        return self.tokens[start : start + self.length + 1].astype(np.int64)


@functools.lru_cache(maxsize=2)
def _epoch_order(seed: int, epoch: int, n: int) -> tuple[int, np.ndarray]:
    """Where an epoch's windows begin (each epoch cuts the text elsewhere), and their order."""
    rng = draws(seed, epoch, "windows")
    return int(rng.integers(2**31)), rng.permutation(n)


def evaluation_windows(tokens: np.ndarray, length: int, most: int = 256) -> np.ndarray:
    """Windows of a validation text, side by side or, where there are too many, evenly spaced: (at
    most `most`, length + 1) int64.

    Raises UserError where the text is shorter than one window.
    """
    there = (len(tokens) - 1) // length
    if there < 1:
        raise UserError(
            f"the validation part has {len(tokens)} tokens, fewer than one window of --max-length "
            f"{length} and the token after it: give more text or a smaller --max-length"
        )
    n = min(there, most)
    starts = np.arange(n) * there // n * length
    return np.stack([tokens[start : start + length + 1] for start in starts]).astype(np.int64)
