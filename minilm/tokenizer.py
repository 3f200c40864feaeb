"""Byte-level byte-pair encoding (BPE): text to token ids and back, and how a vocabulary is learnt.

BPE (Sennrich et al. 2016, arXiv:1508.07909) starts from single symbols and merges, again and
again, the two neighbours that stand together most often. Over bytes (Radford et al. 2019, GPT-2)
no text is ever unknown.

    text      "the cat's hat"
    pieces    "the" " cat" "'s" " hat"    PATTERN cuts the text; no token reaches across a cut
    bytes     t h e                       every byte is a token to begin with
    merges    h+e -> he, t+he -> the      applied in the order in which they were learnt
"""

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from itertools import chain, pairwise
from typing import NamedTuple, Self

import numpy as np

from minilm.config import UserError

Pair = tuple[int, int]
SPECIAL_TOKENS = ("<pad>", "<mask>", "<doc>")
PAD, MASK, DOC = range(3)
N_SPECIAL = len(SPECIAL_TOKENS)
N_BASE = N_SPECIAL + 256  # special tokens, then bytes; the merges' ids follow
MAX_VOCAB_SIZE = 2**16  # ids fit into uint16

# Letters as broad ranges, since `\w` differs between versions of Python.
_LETTER = (
    "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u1fff"  # Latin, Greek, Cyrillic, ... to Thai and Khmer
    "\u2c00-\u2dff\u3005-\u3007\u3040-\u31ff\u3400-\u4dbf\u4e00-\ud7ff"  # kana, Chinese, Hangul
    "\uf900-\ufdff\ufe70-\ufefc\uff21-\uff3a\uff41-\uff5a\uff66-\uffdc"  # their other forms
    "\U00010000-\U0001efff\U00020000-\U0003ffff"  # ancient scripts; more Chinese
)
_SPACE = r" \t-\r"  # space, tab, line feed, vertical tab, form feed, carriage return
PATTERN = (  # tried in this order; every run has a limit, so that no text takes long
    f"'(?:[sdmt]|ll|re|ve)(?![{_LETTER}])"  # the ends of it's, I'd, I'm, can't, we'll, ...
    f"| ?[{_LETTER}]{{1,32}}"
    "| ?[0-9]{1,3}"
    f"| ?[^{_LETTER}0-9{_SPACE}]{{1,16}}"
    rf"|[{_SPACE}]{{0,31}}(?:[\t-\r]| (?![^{_SPACE}]))"  # leaves the next word its space
)
PIECE = re.compile(PATTERN)
MAX_TOKEN_BYTES = 1 + 4 * 32  # the longest piece: a space and 32 letters of four bytes


class SpecialTokens(NamedTuple):
    """The ids of padding, mask, beginning and end of a text; and which ids are its tokens."""

    pad: int
    mask: int | None
    bos: int
    eos: int
    ordinary: np.ndarray  # (M,), the ids of real text


def count_pieces(texts: Iterable[str]) -> Counter[str]:
    """How often each piece occurs: all that learning needs, so the texts are not kept."""
    return Counter(chain.from_iterable(map(PIECE.findall, texts)))


def to_ids(piece: str) -> list[int]:
    """The ids of a piece's bytes, before any merge: "the" gives [119, 107, 104]."""
    return [N_SPECIAL + byte for byte in piece.encode("utf-8", "surrogatepass")]


def merge(ids: list[int], pair: Pair, new: int) -> list[int]:
    """`ids` with every `pair` replaced by the token `new`, from left to right.

    >>> merge([5, 5, 5, 6], (5, 5), new=300)
    [300, 5, 6]
    """
    merged: list[int] = []
    for i in ids:
        if merged and (merged[-1], i) == pair:
            merged[-1] = new
        else:
            merged.append(i)
    return merged


def learn_merges(piece_counts: Mapping[str, int], n_merges: int) -> list[Pair]:
    """Merge the most frequent pair, `n_merges` times or until no pair occurs twice. Ties go to the
    smaller ids, so that neither the order of the texts nor the hash seed matters.

    >>> learn_merges({"that": 3, "the": 2}, 2)  # t+h occurs 5 times, then a+t 3 times
    [(119, 107), (100, 119)]
    """
    pieces = [(to_ids(piece), count) for piece, count in piece_counts.items()]
    pair_counts, where = Counter(), defaultdict(set)  # where: the pieces that hold a pair
    for i, (ids, count) in enumerate(pieces):
        for pair in pairwise(ids):
            pair_counts[pair] += count
            where[pair].add(i)
    merges: list[Pair] = []
    while len(merges) < n_merges and (most := max(pair_counts.values(), default=0)) >= 2:
        best = min(pair for pair, count in pair_counts.items() if count == most)
        merges.append(best)
        for i in where.pop(best):
            ids, count = pieces[i]
            merged = merge(ids, best, new=N_BASE + len(merges) - 1)
            pieces[i] = merged, count
            for pair in pairwise(ids):
                pair_counts[pair] -= count
            for pair in pairwise(merged):
                pair_counts[pair] += count
                where[pair].add(i)
    return merges


class Tokenizer:
    """Ids 0 to 2 are SPECIAL_TOKENS, 3 to 258 the bytes, 259 and up the merges as learnt.

    >>> tokenizer = Tokenizer.train(["the cat, the hat"], vocab_size=262)
    >>> tokenizer.merges  # a+t, h+e, t+he
    [(100, 119), (107, 104), (119, 260)]
    >>> tokenizer.encode("that").tolist()  # t, h, at
    [119, 107, 259]
    >>> tokenizer.decode([261, 259])
    'theat'

    `token_bytes`: the bytes of each id. `fingerprint`: a hash of all that decides about ids.
    Raises UserError if a merge is of tokens that do not exist yet, or its token is nothing new."""

    def __init__(self, merges: list[Pair]):
        self.merges, self.vocab_size = merges, N_BASE + len(merges)
        self.special = SpecialTokens(PAD, MASK, DOC, DOC, np.arange(N_SPECIAL, self.vocab_size))
        self.token_bytes = [s.encode() for s in SPECIAL_TOKENS] + [bytes([b]) for b in range(256)]
        for new, (a, b) in enumerate(merges, N_BASE):
            possible = N_SPECIAL <= min(a, b) <= max(a, b) < new < MAX_VOCAB_SIZE
            token = self.token_bytes[a] + self.token_bytes[b] if possible else b""
            if not 0 < len(token) <= MAX_TOKEN_BYTES:
                raise UserError(f"token {new} cannot be a merge of {a} and {b}: train it anew")
            self.token_bytes.append(token)
        if len(set(self.token_bytes)) < self.vocab_size:
            raise UserError("two tokens stand for the same bytes: train the tokenizer anew")
        self.ranks = {pair: rank for rank, pair in enumerate(merges)}  # in the order learnt
        decisive = json.dumps([SPECIAL_TOKENS, PATTERN, merges]).encode()
        self.fingerprint = hashlib.sha256(decisive).hexdigest()[:16]

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, learn: Callable = learn_merges) -> Self:
        """Learn a vocabulary of this size, or of less if no pair is left that occurs twice.
        Raises UserError unless 259 <= vocab_size <= 65,536."""
        if not N_BASE <= vocab_size <= MAX_VOCAB_SIZE:
            raise UserError(f"vocab_size is {vocab_size}: give {N_BASE} to {MAX_VOCAB_SIZE}")
        return cls(learn(count_pieces(texts), vocab_size - N_BASE))

    def encode_piece(self, piece: str) -> list[int]:
        """The ids of one piece: of the pairs in it, the one learnt first is merged first."""
        ids = to_ids(piece)
        while pairs := self.ranks.keys() & pairwise(ids):
            first = min(pairs, key=self.ranks.__getitem__)
            ids = merge(ids, first, N_BASE + self.ranks[first])
        return ids

    def encode(self, text: str) -> np.ndarray:
        """Ids (N,) uint16 of any str. "<mask>" in it is text like any other, no special token."""
        pieces = PIECE.findall(text)
        ids = {piece: self.encode_piece(piece) for piece in set(pieces)}
        return np.array([i for piece in pieces for i in ids[piece]], dtype=np.uint16)

    def encode_with_offsets(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Ids (N,) and, for each, the characters [start, end) that it holds a part of, (N, 2)."""
        ids = self.encode(text)
        in_bytes = np.frombuffer(text.encode("utf-8", "surrogatepass"), dtype=np.uint8)
        character = np.cumsum(in_bytes & 0b1100_0000 != 0b1000_0000) - 1  # that each byte is in
        ends = np.cumsum([len(self.token_bytes[i]) for i in ids], dtype=np.int64)
        starts = np.append(0, ends)[:-1]
        return ids, np.stack([character[starts], character[ends - 1] + 1], axis=1)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes that `ids` stand for, exactly. Raises UserError for an id out of range."""
        ids = np.asarray(ids, dtype=np.int64)
        if (wrong := ids[(ids < 0) | (ids >= self.vocab_size)]).size:
            raise UserError(f"token id {wrong[0]}: this vocabulary has 0 to {self.vocab_size - 1}")
        return b"".join([self.token_bytes[i] for i in ids])

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`, special tokens by name; bytes that are no text become U+FFFD."""
        data = self.decode_bytes(ids)
        try:
            return data.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            return data.decode("utf-8", "replace")
