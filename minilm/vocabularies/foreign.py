"""What WordPiece and GPT-2's byte-pair encoding have in common: words with numbers, some special.

Both are made from the content of a tokenizer.json of Hugging Face's, and keep it: it is saved with
a run and given back at an export, unchanged but for the marks around a text.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np

from minilm.errors import UserError
from minilm.special import Special
from minilm.tokenizer import MAX_VOCAB_SIZE

# What Hugging Face calls a special token, in the order in which we ask for the part it plays.
ROLES = {
    "begin": ("cls_token", "bos_token", "eos_token"),
    "end": ("sep_token", "eos_token", "bos_token"),
    "pad": ("pad_token", "eos_token"),
    "mask": ("mask_token",),
}


class ForeignTokenizer(ABC):
    """Text to the ids of somebody else's vocabulary, and back.

    content: of tokenizer.json. roles: which token is the cls_token, the mask_token, ...
    Raises UserError where it does not say enough, or has more ids than a token file can hold.
    """

    def __init__(self, content: dict, roles: dict[str, str]):
        # A limit on the length of a text and padding to it are settings, not part of the words.
        self.content, self.roles = content | dict(truncation=None, padding=None), roles
        self.added = {token["content"]: token for token in content.get("added_tokens") or []}
        self.ids = dict(content["model"]["vocab"])
        self.ids |= {name: token["id"] for name, token in self.added.items()}
        self.vocab_size = 1 + max(self.ids.values())
        if self.vocab_size > MAX_VOCAB_SIZE:
            raise UserError(
                f"the vocabulary has {self.vocab_size:,} tokens: {MAX_VOCAB_SIZE:,} at most fit "
                f"into a token file"
            )
        self.names = {i: name for name, i in self.ids.items()}
        self.special = self._special()
        decisive = json.dumps([self.content, self.roles], sort_keys=True).encode()
        self.fingerprint = hashlib.sha256(decisive).hexdigest()[:16]

    def _special(self) -> Special:
        """The special ids; the words are the longest stretch of ids without any."""
        found = {}
        for part, names in ROLES.items():
            there = [self.roles[name] for name in names if self.roles.get(name) in self.ids]
            if not there and part != "mask":
                raise UserError(f"the tokenizer names no {' or '.join(names)} that it has")
            found[part] = self.ids[there[0]] if there else None
        marked = {token["id"] for token in self.added.values() if token.get("special")}
        marked |= {i for i in found.values() if i is not None}
        borders = sorted(marked | {-1, self.vocab_size})
        stretches = (range(a + 1, b) for a, b in pairwise(borders))
        return Special(**found, words=max(stretches, key=len))

    @abstractmethod
    def encode(self, text: str | bytes) -> np.ndarray:
        """Ids (N,) uint16; special tokens are never found in a text."""

    @abstractmethod
    def word_bytes(self, name: str) -> bytes:
        """The bytes of text that a token stands for."""

    def encode_stream(self, chunks: Iterable[str]) -> Iterator[np.ndarray]:
        """The ids of a text that comes in chunks, held in memory as a whole."""
        yield self.encode("".join(chunks))

    def decode_bytes(self, ids) -> bytes:
        """The bytes that `ids` stand for. Raises UserError for an id that has none."""
        ids = np.asarray(ids, dtype=np.int64).tolist()
        for i in ids:
            if i not in self.names:
                raise UserError(f"token id {i}: this vocabulary has 0 to {self.vocab_size - 1}")
        return b"".join(self.word_bytes(self.names[i]) for i in ids)

    def decode(self, ids) -> str:
        """The text of `ids`; bytes that are no text become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def to_json(self) -> str:
        """What `load_tokenizer` reads."""
        saved = {"foreign": self.content, "roles": self.roles}
        return json.dumps(saved, ensure_ascii=False, indent=1)

    def save(self, path: str | Path) -> None:
        """Write what `load_tokenizer` reads."""
        Path(path).write_text(self.to_json(), encoding="utf-8", newline="\n")
