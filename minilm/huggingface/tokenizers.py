"""Vocabularies that others learnt: Hugging Face's library `tokenizers` behind the book's interface.
What is added: which ids are special, and which bytes a token stands for."""

import contextlib
import hashlib
import importlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import numpy as np

from minilm.config import UserError
from minilm.corpora.tokenizer_file import FOREIGN, STAND_IN, load_tokenizer
from minilm.io.durable import damage, read_json
from minilm.tokenizer import MAX_VOCAB_SIZE, SpecialTokens, Tokenizer

PARTS = {  # which of Hugging Face's special tokens is which of ours, the preferred one first
    "pad": ("pad_token", "eos_token"), "mask": ("mask_token",),
    "bos": ("cls_token", "bos_token", "eos_token"), "eos": ("sep_token", "eos_token", "bos_token"),
}  # fmt: skip
# Their names where no file of the folder says them; and ours.
BERT_ROLES = {f"{name.lower()}_token": f"[{name}]" for name in ("PAD", "UNK", "CLS", "SEP", "MASK")}
GPT2_ROLES = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
OUR_ROLES = dict.fromkeys([*GPT2_ROLES, "cls_token", "sep_token"], "<doc>")
OUR_ROLES |= dict(pad_token="<pad>", mask_token="<mask>")
BYTE_OF = {character: byte for byte, character in STAND_IN.items()}  # as GPT-2 writes bytes
JOINED = dict(type="WordPiece", prefix="\0", cleanup=False)  # as they decode without a decoder
# What transformers makes of a decoded text where its "clean_up_tokenization_spaces" is set.
CLEANED = [dict(type="Replace", pattern=dict(String=f" {end}"), content=end.strip())
           for end in (*".?!,", "' ", "n't", "'m", "'s", "'ve", "'re")]  # fmt: skip


class ForeignTokenizer(Tokenizer):
    """Text to the ids of somebody else's vocabulary and back.

    content: of a tokenizer.json; roles: the names of the cls_token, the mask_token, ... A model may
    have more rows than `vocab_size`, padded to a multiple of 64; no token has those ids.

    Raises UserError where a role is missing that is needed, ids do not fit into uint16, the content
    is damaged, or the library is not installed."""

    def __init__(self, content: dict, roles: dict[str, str]):
        make = import_library("tokenizers").Tokenizer.from_str
        with damage("the tokenizer is damaged or of another version"):
            # A limit on a text's length and padding to it are settings, no part of the vocabulary.
            self.content, self.roles = content | dict(truncation=None, padding=None), dict(roles)
            self.content["decoder"] = content.get("decoder") or JOINED
            self._library = make(json.dumps(self.content))
            self._added = {t["content"]: t for t in content.get("added_tokens") or []}
            decoder = self.content["decoder"]
            self._last = self._library.decoder.decode(["a", "a"]).removeprefix("a")
            self._decoders = {part["type"] for part in decoder.get("decoders", [decoder])}
            ids = self._library.get_vocab(with_added_tokens=True)
        self._library.encode_special_tokens = True  # "[SEP]" in a text is a bracket and letters
        self.names = {i: name for name, i in ids.items()}
        self.vocab_size = 1 + max(self.names, default=0)
        if self.vocab_size > MAX_VOCAB_SIZE:
            raise UserError(f"it has {self.vocab_size:,} tokens; {MAX_VOCAB_SIZE:,} fit in uint16")
        self.special = self._special(ids)
        self.mask_token = self.names.get(self.special.mask)  # what a person writes: "[MASK]"
        names = map(self.names.get, range(self.vocab_size))
        self.token_bytes = [self._bytes(name) if name else b"" for name in names]
        decisive = json.dumps([self.content, self.roles], sort_keys=True).encode()
        self.fingerprint = hashlib.sha256(decisive).hexdigest()[:16]

    def __reduce__(self):  # the library's own pickle forgets encode_special_tokens
        return ForeignTokenizer, (self.content, self.roles)

    def _special(self, ids: dict[str, int]) -> SpecialTokens:
        """The special ids; `ordinary` are all others that a token has."""
        found = {}
        for part, roles in PARTS.items():
            names = [self.roles[role] for role in roles if self.roles.get(role) in ids]
            if not names and part != "mask":
                raise UserError(f"the tokenizer has no {' or '.join(roles)}")
            found[part] = ids[names[0]] if names else None
        marked = {token["id"] for token in self._added.values() if token.get("special")}
        marked |= set(found.values()) - {None}
        if not (ordinary := sorted(self.names.keys() - marked)):
            raise UserError("the tokenizer has special tokens only")
        return SpecialTokens(**found, ordinary=np.array(ordinary))

    def _bytes(self, name: str) -> bytes:
        """The bytes of text that a token stands for: those that their decoder puts between two
        others. "▁the" and "the" give " the" and "the", BERT's "the" and "##the" likewise."""
        if name in self._added:
            return name.encode()
        if "ByteLevel" in self._decoders and BYTE_OF.keys() >= set(name):
            return bytes(BYTE_OF[character] for character in name)
        if "ByteFallback" in self._decoders and re.fullmatch("<0x[0-9A-F]{2}>", name):
            return bytes([int(name[3:5], 16)])
        text = self._library.decoder.decode(["a", name, "a"])
        return text.removeprefix("a").removesuffix(self._last).encode()

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids` as their library decodes it, but with a blank that the first token
        begins with, which it leaves out: so that parts of a text can be joined."""
        known = self.decode_bytes(ids)
        text = self._library.decode(list(map(int, ids)), skip_special_tokens=False)
        return " " * (known[:1] == b" " != text[:1].encode()) + text

    def encode(self, text: str) -> np.ndarray:
        """Ids (N,) uint16; special tokens are never found in a text."""
        return self.encode_with_offsets(text)[0]

    def encode_with_offsets(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Ids (N,) uint16 and, for each, its characters [start, end), (N, 2)."""
        text = re.sub("[\ud800-\udfff]", "\ufffd", text)  # the library takes no lone surrogate
        encoding = self._library.encode(text, add_special_tokens=False)
        spans = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        return np.array(encoding.ids, dtype=np.uint16), spans

    def to_json(self) -> str:
        """The tokenizer.json of a run: what the constructor takes, as {"foreign", "roles"}."""
        saved = {"foreign": self.content, "roles": self.roles}
        return json.dumps(saved, ensure_ascii=False, indent=1)


FOREIGN.append(ForeignTokenizer)


def read_tokenizer(folder: Path):
    """The tokenizer of a Hugging Face folder; that of an exported run is ours again. Raises
    UserError where there is none, or one that cannot be used."""
    with contextlib.suppress(UserError):
        return load_tokenizer(folder / "tokenizer.json")
    if not (folder / "tokenizer.json").exists():
        raise UserError("there is no tokenizer.json: load the tokenizer with transformers and save "
                        "it there (save_pretrained)")  # fmt: skip
    settings = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        settings |= read_json(folder / name, {}) if (folder / name).exists() else {}
    with damage("the tokenizer cannot be read"):
        content = read_json(folder / "tokenizer.json", {})
        roles = BERT_ROLES if content["model"].get("type") == "WordPiece" else GPT2_ROLES
        for role, token in settings.items():
            token = token.get("content") if isinstance(token, dict) else token
            if role.endswith("_token") and isinstance(token, str):
                roles = roles | {role: token}
        if settings.get("clean_up_tokenization_spaces") and content["model"].get("type") != "BPE":
            decoder = content.get("decoder") or JOINED
            parts = [*decoder.get("decoders", [decoder]), dict(type="Fuse"), *CLEANED]
            content["decoder"] = dict(type="Sequence", decoders=parts)
        return ForeignTokenizer(content, roles)


def import_library(name: str) -> ModuleType:
    """An optional library. Raises UserError that says how to get it."""
    with damage(f"this needs the library {name}: pip install tokenizers safetensors"):
        return importlib.import_module(name)
