"""Byte-level byte-pair encoding: text to token ids and back, and how the vocabulary is learnt.

Byte-pair encoding (Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword
Units") starts from single symbols and merges, again and again, the two neighbours that occur
together most often. Over bytes (Radford et al. 2019, GPT-2) nothing is ever unknown.

    text      "the cat's hat"
    pieces    "the" " cat" "'s" " hat"    cut by PATTERN; no token reaches across a cut
    bytes     t h e                       every byte is a token to begin with
    merges    h+e -> he, t+he -> the      the merge learnt first goes first
"""

import hashlib
import heapq
import json
import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, pairwise
from operator import add
from pathlib import Path
from typing import Self

import numpy as np

from minilm.config import UserError
from minilm.special import Special

SPECIAL_TOKENS = ("<pad>", "<mask>", "<doc>")
PAD, MASK, DOC = range(3)
N_SPECIAL = len(SPECIAL_TOKENS)
N_BASE = N_SPECIAL + 256  # the special tokens, then the bytes; merges come after them
MAX_VOCAB_SIZE = 2**16  # ids fit into uint16
OURS = Special(PAD, MASK, DOC, DOC, range(N_SPECIAL, MAX_VOCAB_SIZE))
Document = Iterable[str]  # chunks, so that one line of 100 MB streams; a small document is [text]

BLOCK = 2**14  # characters handled at a time: few enough to stay in the processor's cache
CACHE_SIZE = 2**18  # pieces remembered: some 50 MB
LARGEST_FILE = 2**26  # bytes of a tokenizer.json; one made to do harm may be larger than memory

# Letters as ranges, since `\w` differs between versions of Python. Broad ones: that a digit or a
# comma of another script counts as a letter costs nothing but tidiness.
_LETTER = (
    "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u1fff"  # Latin, Greek, Cyrillic, ... to Thai and Khmer
    "\u2c00-\u2dff\u3005-\u3007\u3040-\u31ff\u3400-\u4dbf\u4e00-\ud7ff"  # kana, Chinese, Hangul
    "\uf900-\ufdff\ufe70-\ufefc\uff21-\uff3a\uff41-\uff5a\uff66-\uffdc"  # their other forms
    "\U00010000-\U0001efff\U00020000-\U0003ffff"  # ancient scripts; more Chinese
)
_SPACE = r" \t-\r"  # space, tab, line feed, vertical tab, form feed, carriage return
_SURROGATE = "\ud800-\udfff"
MAX_TOKEN_BYTES = 1 + 4 * 32  # the longest piece: a space and 32 letters of four bytes


def _pattern(not_other: str) -> str:
    alternatives = [  # tried in this order; each run is limited, so that no input takes long
        f"'(?:[sdmt]|ll|re|ve)(?![{_LETTER}])",  # the ends of it's, I'd, I'm, can't, we'll, ...
        f" ?[{_LETTER}]{{1,32}}",
        " ?[0-9]{1,3}",
        f" ?[^{_LETTER}0-9{_SPACE}{not_other}]{{1,16}}",
        rf"[{_SPACE}]{{0,31}}(?:[\t-\r]| (?![^{_SPACE}]))",  # leaves a word the space before it
    ]
    return "|".join(alternatives)


PATTERN = _pattern(not_other="")  # means the same to `re` and to Hugging Face's library
# A str can hold lone surrogates, which UTF-8 cannot: each is a piece of its own.
_PIECE = re.compile(f"{_pattern(not_other=_SURROGATE)}| ?[{_SURROGATE}]")
_LAST_WORD_END = re.compile(f"(?s:.*)[^{_SPACE}](?=[{_SPACE}])")

# GPT-2's visible stand-in for each byte, for JSON: its own character, or one from U+0100 on.
_VISIBLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_HIDDEN = sorted(set(range(256)) - set(_VISIBLE))
STAND_IN = {b: chr(b) for b in _VISIBLE} | {b: chr(256 + i) for i, b in enumerate(_HIDDEN)}


def blocks(chunks: Iterable[str], size: int) -> Iterator[str]:
    """Cut a stream into blocks of about `size` characters, only where a piece ends anyway.

    So the blocks give the pieces that the whole would, wherever the stream was cut into chunks.

        list(blocks(["one tw", "o three"], size=6))  ->  ["one", " two", " three"]
    """
    rest = ""
    for chunk in chunks:
        for start in range(0, len(chunk), size):
            rest += chunk[start : start + size]
            if len(rest) >= size:
                # A word ends before whitespace, whatever came before it and may come after. What
                # comes after can change the last three pieces at most: "'" "l" + "l" -> "'ll".
                word_end = _LAST_WORD_END.match(rest)
                cut = word_end.end() if word_end else sum(map(len, _PIECE.findall(rest)[:-3]))
                if cut:
                    yield rest[:cut]
                rest = rest[cut:]
    yield rest


def escape(text: str) -> str:
    """The str in which each byte of `text` that is not valid UTF-8 is one surrogate."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")


def _pairs(word: str) -> Iterator[str]:
    return map(add, word, word[1:])


def _count_pieces(texts: Iterable[str]) -> Counter[str]:
    return Counter(chain.from_iterable(map(_PIECE.findall, map(escape, texts))))


def _learn_merges(piece_counts: Counter[str], n_merges: int) -> list[tuple[int, int]]:
    """Merge the most frequent pair, `n_merges` times or until no pair occurs twice.

    Ties go to the smaller ids. Counts alone decide, never the order in which pairs were met; so
    neither the order of documents nor the hash seed matters. A word is a str of `chr(id)`: to
    merge a pair in it is `str.replace`, which works from left to right and at the speed of C.
    """
    in_bytes = (piece.encode("utf-8", "surrogateescape") for piece in piece_counts)
    words = ["".join(chr(N_SPECIAL + byte) for byte in piece) for piece in in_bytes]
    counts = list(piece_counts.values())
    pair_counts, where = defaultdict(int), defaultdict(list)  # where: the words that hold a pair
    for i, word in enumerate(words):
        for pair in set(_pairs(word)):
            pair_counts[pair] += counts[i] * word.count(pair)  # once in "aaa": as it can merge
            where[pair].append(i)
    heap = [(-count, pair) for pair, count in pair_counts.items()]
    heapq.heapify(heap)
    merges = []
    while heap and len(merges) < n_merges:
        minus_count, pair = heapq.heappop(heap)
        if -minus_count > pair_counts[pair]:  # counts only fall: this came up too early
            heapq.heappush(heap, (-pair_counts[pair], pair))
            continue
        if pair_counts[pair] < 2:
            break
        new = chr(N_BASE + len(merges))
        merges.append((ord(pair[0]), ord(pair[1])))
        born = set()
        for i in where.pop(pair):
            old = words[i]
            if pair not in old:  # an earlier merge took one of the two
                continue
            words[i] = word = old.replace(pair, new)
            for p in {*_pairs(old), *_pairs(word)}:
                pair_counts[p] += counts[i] * (word.count(p) - old.count(p))
                if new in p:
                    where[p].append(i)
                    born.add(p)
        for pair in born:
            heapq.heappush(heap, (-pair_counts[pair], pair))
    return merges


class PieceCache(dict):
    """From a piece to its ids as packed uint16, worked out when it is first asked for. `ranks`:
    which pairs merge, in the order learnt; `new[rank]`: into what; `byte_ids`: of each byte."""

    def __init__(self, ranks: dict[tuple[int, int], int], new: Sequence[int], byte_ids: Sequence):
        self._ranks, self._new, self._byte_ids = ranks, new, byte_ids

    def __missing__(self, piece: str) -> bytes:
        ids = [self._byte_ids[byte] for byte in piece.encode("utf-8", "surrogateescape")]
        rank_of, never = self._ranks.get, MAX_VOCAB_SIZE
        ranks = [rank_of(pair, never) for pair in pairwise(ids)]
        while ranks and (rank := min(ranks)) < never:
            i = ranks.index(rank)
            ids[i : i + 2] = [new] = [self._new[rank]]
            del ranks[i]
            if i > 0:
                ranks[i - 1] = rank_of((ids[i - 1], new), never)
            if i < len(ranks):
                ranks[i] = rank_of((new, ids[i + 1]), never)
        if len(self) >= CACHE_SIZE:
            self.clear()
        self[piece] = packed = array("H", ids).tobytes()
        return packed


class Tokenizer:
    """Ids 0 to 2 are SPECIAL_TOKENS, 3 to 258 the bytes, 259 and up the merges as learnt.

        tokenizer = Tokenizer.train([["the cat, the hat"]], vocab_size=262)
        tokenizer.merges             ->  [(100, 119), (107, 104), (119, 260)]: at, he, t+he
        tokenizer.encode("that")     ->  [119, 107, 259]: t, h, at
        tokenizer.decode([261, 259]) ->  "theat"

    `vocab_size` counts the ids; `fingerprint` is a hash of all that decides about them.
    Raises UserError if a merge is of tokens that do not exist yet, or its token is nothing new.
    """

    def __init__(self, merges: list[tuple[int, int]]):
        self.merges, self.special, self.vocab_size = merges, OURS, N_BASE + len(merges)
        self._bytes = [name.encode() for name in SPECIAL_TOKENS] + [bytes([b]) for b in range(256)]
        for new, (a, b) in enumerate(merges, N_BASE):
            possible = N_SPECIAL <= min(a, b) <= max(a, b) < new < MAX_VOCAB_SIZE
            if not possible or len(token := self._bytes[a] + self._bytes[b]) > MAX_TOKEN_BYTES:
                raise UserError(f"token {new} cannot be a merge of {a} and {b}")
            self._bytes.append(token)
        if len(set(self._bytes)) < self.vocab_size:
            raise UserError("two tokens stand for the same bytes")
        decisive = json.dumps([SPECIAL_TOKENS, PATTERN, merges]).encode()
        self.fingerprint = hashlib.sha256(decisive).hexdigest()[:16]
        ranks, new = {pair: i for i, pair in enumerate(merges)}, range(N_BASE, self.vocab_size)
        self._cache = PieceCache(ranks, new, range(N_SPECIAL, N_BASE))

    @classmethod
    def train(cls, documents: Iterable[Document], vocab_size: int) -> Self:
        """Learn `vocab_size` tokens, or fewer: until no two of them stand together twice.

        Holds the different pieces, never the text. Raises UserError unless 259 <= size <= 65,536.
        """
        if not N_BASE <= vocab_size <= MAX_VOCAB_SIZE:
            raise UserError(f"--vocab-size is {vocab_size}: give {N_BASE} to {MAX_VOCAB_SIZE}")
        texts = (block for document in documents for block in blocks(document, BLOCK))
        return cls(_learn_merges(_count_pieces(texts), vocab_size - N_BASE))

    def encode(self, text: str | bytes, special: bool = False) -> np.ndarray:
        """Ids (N,) uint16 of any str or bytes; only if `special` is "<mask>" in it one id, MASK."""
        text = escape(text) if isinstance(text, str) else text.decode("utf-8", "surrogateescape")
        parts = re.split(f"({'|'.join(SPECIAL_TOKENS)})", text) if special else [text]
        packed = []
        for i, part in enumerate(parts):
            if i % 2:  # every other part is what the text was split at
                packed.append(array("H", [SPECIAL_TOKENS.index(part)]))
                continue
            for block in blocks([part], BLOCK):
                packed.append(b"".join(map(self._cache.__getitem__, _PIECE.findall(block))))
        return np.frombuffer(b"".join(packed), dtype=np.uint16).copy()

    def encode_stream(self, chunks: Iterable[str]) -> Iterator[np.ndarray]:
        """The ids of a text of any length, array after array; together they equal `encode`'s."""
        return map(self.encode, blocks(chunks, BLOCK))

    def encode_with_offsets(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Ids (N,) and, for each, the characters [start, end) that it holds a part of, (N, 2)."""
        ids = self.encode(text)
        in_bytes = np.frombuffer(text.encode("utf-8", "surrogatepass"), dtype=np.uint8)
        character = np.cumsum(in_bytes & 0b1100_0000 != 0b1000_0000) - 1  # that each byte is in
        ends = np.cumsum([len(self._bytes[i]) for i in ids], dtype=np.int64)
        starts = np.append(0, ends)[:-1]
        return ids, np.stack([character[starts], character[ends - 1] + 1], axis=1)

    def decode_bytes(self, ids) -> bytes:
        """The bytes that `ids` stand for, exactly. Raises UserError for an id out of range."""
        ids = np.asarray(ids, dtype=np.int64)
        wrong = ids[(ids < 0) | (ids >= self.vocab_size)]
        if wrong.size:
            raise UserError(f"token id {wrong[0]}: this vocabulary has 0 to {self.vocab_size - 1}")
        return b"".join([self._bytes[i] for i in ids])

    def decode(self, ids) -> str:
        """The text of `ids`, special tokens by name; bytes that are no text become U+FFFD."""
        data = self.decode_bytes(ids)
        try:
            return data.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            return data.decode("utf-8", "replace")

    def to_json(self) -> str:
        """`tokenizer.json`, which the library `tokenizers` of Hugging Face reads, too."""
        return json.dumps(self._as_json(), ensure_ascii=False, indent=1)

    def save(self, path: str | Path) -> None:
        """Write `tokenizer.json`."""
        Path(path).write_text(self.to_json(), encoding="utf-8", newline="\n")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote. Raises UserError, never gives a tokenizer that differs."""
        try:
            if Path(path).stat().st_size > LARGEST_FILE or not Path(path).is_file():
                raise ValueError("it is too large, or no file")
            content = dict(json.loads(Path(path).read_text(encoding="utf-8")))
            content.pop("post_processor", None)  # what an export adds: <doc> around a text
            vocab, merges = content["model"]["vocab"], content["model"]["merges"]
            tokenizer = cls([(vocab[a], vocab[b]) for a, b in merges])
            if tokenizer._as_json() != content:
                raise ValueError("its parts contradict each other, or its pattern is another")
            return tokenizer
        except (OSError, ValueError, LookupError, TypeError, RecursionError, UserError) as error:
            reason = f"{type(error).__name__}: {error}"[:200]
            raise UserError(f"{path}: no tokenizer of ours ({reason}); train it anew") from None

    def _as_json(self) -> dict:
        names = ["".join(map(STAND_IN.__getitem__, token)) for token in self._bytes]
        vocab = {name: i for i, name in enumerate(names)}
        merges = [[names[a], names[b]] for a, b in self.merges]
        no = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        special = [{"id": vocab[name], "content": name, "special": True} for name in SPECIAL_TOKENS]
        split = {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated"}
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
        byte_level["trim_offsets"] = split["invert"] = False
        return {
            "version": "1.0",
            "added_tokens": [token | no for token in special],
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
            "decoder": byte_level,
            "model": {"type": "BPE", "vocab": vocab, "merges": merges},
        }
