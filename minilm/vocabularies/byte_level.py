"""Byte-level byte-pair encoding with somebody else's merges and numbers: GPT-2's, ModernBERT's.

It works as ours does (`tokenizer.py`), but the text is cut by GPT-2's pattern (Radford et al. 2019,
section 2.2), which asks Unicode for its letters and numbers.
"""

import functools
import heapq
import re
import sys
import unicodedata
from array import array
from itertools import pairwise

import numpy as np

from minilm.errors import UserError
from minilm.tokenizer import STAND_IN, PieceCache, escape
from minilm.vocabularies.foreign import ForeignTokenizer

LONG = 200  # characters of a piece

# Unicode's White_Space, which is not quite Python's \s.
_SPACE = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"


@functools.cache
def gpt2_pattern() -> re.Pattern:
    """GPT-2's pattern: the ends of it's and we'll; letters, numbers and other signs, each run with
    the space before it; and spaces, of which the last goes with the word that follows."""
    L, N, S = _ranges("L"), _ranges("N"), _SPACE
    return re.compile(
        f"'(?:s|t|re|ve|m|ll|d)| ?[{L}]+| ?[{N}]+| ?[^{S}{L}{N}]+|[{S}]+(?![^{S}])|[{S}]+"
    )


def _ranges(category: str) -> str:
    """All characters of a category of Unicode's ("L": letters) as ranges for `re`."""
    inside = "".join(
        unicodedata.category(chr(code))[0] for code in range(sys.maxunicode + 1)
    )  # a letter for each character
    spans = (match.span() for match in re.finditer(f"{category}+", inside))
    return "".join(f"\\U{start:08x}-\\U{end - 1:08x}" for start, end in spans)


class LongPieceCache(PieceCache):
    """GPT-2's pieces have no greatest length, and a megabyte of letters without a space is one.
    PieceCache looks for the next merge in all that is left, which takes quadratic time; so a long
    piece keeps its pairs in a heap, each with its place, and passes over those that are gone."""

    def __missing__(self, piece: str) -> bytes:
        if len(piece) <= LONG:
            return super().__missing__(piece)
        ids = [self._byte_ids[byte] for byte in piece.encode("utf-8", "surrogateescape")]
        n = len(ids)
        before, after = [*range(-1, n - 1)], [*range(1, n + 1)]  # -1 and n: there is none
        heap = [(self._ranks[pair], i, pair) for i, pair in enumerate(pairwise(ids))
                if pair in self._ranks]  # fmt: skip
        heapq.heapify(heap)  # the least rank first, and of these the leftmost
        while heap:
            rank, i, pair = heapq.heappop(heap)
            j = after[i]
            if j == n or (ids[i], ids[j]) != pair:
                continue
            ids[i], ids[j], after[i] = self._new[rank], None, after[j]
            if after[j] < n:
                before[after[j]] = i
            for left, right in ((before[i], i), (i, after[i])):
                if left >= 0 and right < n and (pair := (ids[left], ids[right])) in self._ranks:
                    heapq.heappush(heap, (self._ranks[pair], left, pair))
        return array("H", [i for i in ids if i is not None]).tobytes()


class ByteLevel(ForeignTokenizer):
    """See above. Raises UserError where tokenizer.json asks for more than GPT-2's and ModernBERT's
    do."""

    def __init__(self, content: dict, roles: dict[str, str]):
        super().__init__(content, roles)
        model = content["model"]
        self._check(content)
        self.nfc = content.get("normalizer") is not None
        pairs = (m.split(" ") if isinstance(m, str) else m for m in model["merges"])
        vocab = model["vocab"]
        ranks, new = {}, []
        for a, b in pairs:
            ranks[vocab[a], vocab[b]] = len(new)
            new.append(vocab[a + b])
        byte_ids = [vocab[STAND_IN[byte]] for byte in range(256)]
        self._cache = LongPieceCache(ranks, new, byte_ids)
        self._bytes = {character: bytes([byte]) for byte, character in STAND_IN.items()}
        # Tokens that were added by hand and are words all the same, such as runs of spaces.
        words = [name for name, token in self.added.items() if not token.get("special")]
        words.sort(key=len, reverse=True)  # the longest first
        self._added_words = re.compile(f"({'|'.join(map(re.escape, words))})") if words else None

    @staticmethod
    def _check(content: dict) -> None:
        """Raise UserError for what would give other ids than theirs."""
        cutting, normalizer = content.get("pre_tokenizer") or {}, content.get("normalizer")
        plain = cutting.get("type") == "ByteLevel" and cutting.get("use_regex", True)
        if not plain or cutting.get("add_prefix_space"):
            raise UserError("the tokenizer cuts text in another way than GPT-2's does")
        if normalizer is not None and normalizer.get("type") != "NFC":
            raise UserError(f"the tokenizer changes text by {normalizer.get('type')}: NFC is known")
        unknown = ("ignore_merges", "dropout", "continuing_subword_prefix", "end_of_word_suffix")
        for name in unknown:
            if content["model"].get(name):
                raise UserError(f"the tokenizer has a {name}, which is not known here")

    def encode(self, text: str | bytes) -> np.ndarray:
        """Ids (N,) uint16; special tokens are never found in a text."""
        text = escape(text) if isinstance(text, str) else text.decode("utf-8", "surrogateescape")
        if self.nfc:
            text = unicodedata.normalize("NFC", text)
        packed = []
        for i, part in enumerate(self._added_words.split(text) if self._added_words else [text]):
            if i % 2:  # every other part is what the text was split at
                packed.append(np.uint16(self.ids[part]).tobytes())
            else:
                packed += map(self._cache.__getitem__, gpt2_pattern().findall(part))
        return np.frombuffer(b"".join(packed), dtype=np.uint16).copy()

    def word_bytes(self, name: str) -> bytes:
        """The bytes behind the visible characters; tokens added by hand are plain text."""
        if name in self.added:
            return name.encode()
        return b"".join(map(self._bytes.__getitem__, name))
