"""WordPiece as BERT has it (Devlin et al. 2019; Wu et al. 2016, arXiv 1609.08144): encoding only.

    text      "Café-goers!"
    cleaned   "cafe-goers!"              lower case, accents gone, control characters gone
    words     "cafe" "-" "goers" "!"     cut at spaces and around punctuation and Chinese
    pieces    "cafe" "-" "go" "##ers" "!"

Each word is cut greedily: the longest piece of the vocabulary that it begins with, then the longest
one, written with ## before it, that the rest begins with. A word that this does not use up is
[UNK].
"""

import unicodedata

import numpy as np

from minilm.errors import UserError
from minilm.vocabularies.foreign import ForeignTokenizer
from minilm.vocabularies.unicode8 import category

_CACHE_SIZE = 2**18  # words remembered
# Chinese characters, each a word of its own.
_CHINESE = (
    range(0x3400, 0x4DC0), range(0x4E00, 0xA000), range(0xF900, 0xFB00), range(0x20000, 0x2A6E0),
    range(0x2A700, 0x2B820), range(0x2B920, 0x2CEB0), range(0x2F800, 0x2FA20),
)  # fmt: skip
_ASCII_PUNCTUATION = {*range(33, 48), *range(58, 65), *range(91, 97), *range(123, 127)}


class _EachCharacter(dict):
    """A table for str.translate that works out each character when it is first met."""

    def __init__(self, replace):
        self._replace = replace

    def __missing__(self, code: int) -> str:
        self[code] = new = self._replace(code)
        return new


class WordPiece(ForeignTokenizer):
    """See above. Raises UserError where tokenizer.json asks for more than BERT's cleaning."""

    def __init__(self, content: dict, roles: dict[str, str]):
        super().__init__(content, roles)
        model, cleaning = content["model"], content.get("normalizer") or {}
        kinds = cleaning.get("type"), (content.get("pre_tokenizer") or {}).get("type")
        if kinds != ("BertNormalizer", "BertPreTokenizer"):
            raise UserError(f"the tokenizer prepares text by {kinds}: only BERT's way is known")
        if not cleaning.get("clean_text", True):
            raise UserError("the tokenizer has clean_text false: only true is known")
        self.lower = cleaning.get("lowercase", True)
        strip = cleaning.get("strip_accents")
        self.strip = self.lower if strip is None else strip
        self.chinese = cleaning.get("handle_chinese_chars", True)
        self.prefix = model.get("continuing_subword_prefix", "##")
        self.longest_word = model.get("max_input_chars_per_word", 100)
        self.unknown = self.ids[model.get("unk_token", "[UNK]")]
        self.vocab = model["vocab"]
        self.longest_piece = max(map(len, self.vocab))
        self._clean, self._split = _EachCharacter(self._cleaned), _EachCharacter(self._split_at)
        self._cache: dict[str, list[int]] = {}

    def _cleaned(self, code: int) -> str:
        """Control characters go, spaces become one kind, Chinese stands alone."""
        character, kind = chr(code), category(code)
        if character in "\t\n\r" or kind[0] == "Z":
            return " "
        if character in "\0\ufffd" or kind in ("Cc", "Cf", "Co", "Cs"):
            return ""
        chinese = self.chinese and any(code in block for block in _CHINESE)
        return f" {character} " if chinese else character

    def _split_at(self, code: int) -> str:
        """Accents go, letters are made small, punctuation stands alone."""
        character, kind = chr(code), category(code)
        if self.strip and kind == "Mn":
            return ""
        if self.lower:
            character = character.lower()
        punctuation = code in _ASCII_PUNCTUATION or kind[0] == "P"
        return f" {character} " if punctuation else character

    def encode(self, text: str | bytes) -> np.ndarray:
        """Ids (N,) uint16; special tokens are never found in a text."""
        if isinstance(text, bytes):
            text = text.decode("utf-8", "replace")
        text = text.translate(self._clean)
        if self.strip:
            text = unicodedata.normalize("NFD", text)  # an accent becomes a character of its own
        ids: list[int] = []
        for word in text.translate(self._split).split(" "):
            if word:
                ids += self._cache.get(word) or self._pieces(word)
        return np.array(ids, dtype=np.uint16)

    def _pieces(self, word: str) -> list[int]:
        """The ids of one word's pieces."""
        ids, start, prefix = [], 0, ""
        whole = word if len(word) <= self.longest_word else ""  # longer ones are not looked at
        while start < len(whole):
            for end in range(min(len(word), start + self.longest_piece), start, -1):
                if (piece := self.vocab.get(prefix + word[start:end])) is not None:
                    break
            else:
                ids = []
                break
            ids.append(piece)
            start, prefix = end, self.prefix
        if len(self._cache) >= _CACHE_SIZE:
            self._cache.clear()
        self._cache[word] = ids = ids or [self.unknown]
        return ids

    def word_bytes(self, name: str) -> bytes:
        """A piece that goes on as it is, any other after a space."""
        if name.startswith(self.prefix) and name != self.prefix:
            return name.removeprefix(self.prefix).encode()
        return f" {name}".encode()
