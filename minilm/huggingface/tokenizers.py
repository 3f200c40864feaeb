"""Vocabularies that others learnt: Hugging Face's library `tokenizers` behind the book's interface.

Imported weights need the ids that they were trained with, so the library does the encoding. What
this file adds: which ids are special, which bytes a token stands for, and that special tokens are
never found inside a text.
"""

import contextlib
import hashlib
import importlib
import json
import re
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np

from minilm.config import UserError
from minilm.tokenizer import SpecialTokens

MAX_VOCAB_SIZE = 2**16  # ids are stored as uint16
LARGEST_JSON = 2**26  # bytes; ModernBERT's tokenizer.json has 3.6 million

# Which of Hugging Face's roles plays each of our parts, the preferred one first.
PARTS = {
    "pad": ("pad_token", "eos_token"),
    "mask": ("mask_token",),
    "bos": ("cls_token", "bos_token", "eos_token"),
    "eos": ("sep_token", "eos_token", "bos_token"),
}
# The roles where no file of the folder names them.
BERT_ROLES = dict(
    pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]"
)
GPT2_ROLES = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")

# GPT-2 writes each byte as one visible character (Radford et al. 2019, encoder.py): itself, or, if
# it has no look of its own (spaces, control characters), the next character from U+0100 on.
_VISIBLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_HIDDEN = sorted(set(range(256)) - set(_VISIBLE))
BYTE_OF = {chr(b): b for b in _VISIBLE} | {chr(256 + i): b for i, b in enumerate(_HIDDEN)}


class ForeignTokenizer:
    """Text to the ids of somebody else's vocabulary and back; the interface of `Tokenizer`.

    content: of a tokenizer.json. roles: the name of the cls_token, the mask_token, ...
    `vocab_size` counts the ids that the tokenizer has. A model may have more rows than that (an
    embedding padded to a multiple of 64): no token belongs to them.

    Raises UserError where a role that is needed is missing, there are more ids than fit into
    uint16, the content is damaged, or the library is not installed.
    """

    def __init__(self, content: dict, roles: dict[str, str]):
        library = import_library("tokenizers")
        # A limit on a text's length and padding to it are settings, not part of the vocabulary.
        self.content, self.roles = content | dict(truncation=None, padding=None), roles
        try:
            self._library = library.Tokenizer.from_str(json.dumps(self.content))
            added = {t["content"]: t for t in content.get("added_tokens") or []}
            ids = self._library.get_vocab(with_added_tokens=True)
        except Exception as error:  # the library raises nothing more precise
            reason = " ".join(str(error).split())[:100]
            raise UserError(f"the tokenizer is damaged or of another version ({reason})") from None
        self._library.encode_special_tokens = True  # "[SEP]" in a text is a bracket and letters
        self.vocab_size = 1 + max(ids.values(), default=0)
        if self.vocab_size > MAX_VOCAB_SIZE:
            raise UserError(
                f"the vocabulary has {self.vocab_size:,} tokens, of which {MAX_VOCAB_SIZE:,} fit "
                f"into a token file (uint16): choose a model with a smaller one"
            )
        self.names = {i: name for name, i in ids.items()}
        self.special = self._special(ids, {t["id"] for t in added.values() if t.get("special")})
        self.token_bytes = [
            self._bytes(self.names.get(i, ""), added) for i in range(self.vocab_size)
        ]
        decisive = json.dumps([self.content, self.roles], sort_keys=True).encode()
        self.fingerprint = hashlib.sha256(decisive).hexdigest()[:16]

    def __reduce__(self):  # the library's own pickle forgets encode_special_tokens
        return ForeignTokenizer, (self.content, self.roles)

    @property
    def mask_token(self) -> str | None:
        """How a person writes a masked token, such as "[MASK]"; None where there is none."""
        return None if self.special.mask is None else self.names[self.special.mask]

    def _special(self, ids: dict[str, int], marked: set[int]) -> SpecialTokens:
        """The special ids; `ordinary` is the longest stretch of ids with no special one in it."""
        found = {}
        for part, roles in PARTS.items():
            there = [ids[self.roles[role]] for role in roles if self.roles.get(role) in ids]
            if not there and part != "mask":
                raise UserError(f"the tokenizer has no {' or '.join(roles)}")
            found[part] = there[0] if there else None
        marked |= set(found.values()) - {None}
        stretches = (range(a + 1, b) for a, b in pairwise(sorted(marked | {-1, self.vocab_size})))
        return SpecialTokens(**found, ordinary=max(stretches, key=len))

    def _bytes(self, name: str, added: dict[str, dict]) -> bytes:
        """The bytes of text that a token stands for."""
        if name in added:
            return name.encode()
        model = self.content["model"]
        if model["type"] == "WordPiece":  # "##ing" continues a word, "the" begins one
            prefix = model.get("continuing_subword_prefix", "##")
            whole = not name.startswith(prefix) or name == prefix
            return f" {name}".encode() if whole and name else name.removeprefix(prefix).encode()
        if all(character in BYTE_OF for character in name):
            return bytes(BYTE_OF[character] for character in name)
        return name.replace("▁", " ").encode()  # SentencePiece's sign for a space

    def encode(self, text: str) -> np.ndarray:
        """Ids (N,) uint16; special tokens are never found in a text."""
        return self.encode_with_offsets(text)[0]

    def encode_with_offsets(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Ids (N,) uint16 and, for each, its characters [start, end), (N, 2)."""
        text = re.sub("[\ud800-\udfff]", "\ufffd", text)  # the library takes no lone surrogate
        encoding = self._library.encode(text, add_special_tokens=False)
        spans = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        return np.array(encoding.ids, dtype=np.uint16), spans

    def decode_bytes(self, ids) -> bytes:
        """The bytes that `ids` stand for. Raises UserError for an id that no token has."""
        ids = np.asarray(ids, dtype=np.int64).tolist()
        for i in ids:
            if i not in self.names:
                raise UserError(f"token id {i}: this vocabulary has 0 to {self.vocab_size - 1}")
        return b"".join(self.token_bytes[i] for i in ids)

    def decode(self, ids) -> str:
        """The text of `ids`; bytes that are no text become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def to_json(self) -> str:
        """What `from_json` reads: the tokenizer.json of a run."""
        saved = {"foreign": self.content, "roles": self.roles}
        return json.dumps(saved, ensure_ascii=False, indent=1)

    @classmethod
    def from_json(cls, saved: dict) -> "ForeignTokenizer":
        """The tokenizer that `to_json` wrote, parsed. Raises UserError where it is damaged."""
        content, roles = saved.get("foreign"), saved.get("roles")
        if not isinstance(content, dict) or not isinstance(roles, dict):
            raise UserError("the tokenizer is damaged (no content or no roles)")
        return cls(content, roles)


def read_tokenizer(folder: Path):
    """The tokenizer of a Hugging Face folder: from tokenizer.json, or vocab.txt (BERT's), or
    vocab.json with merges.txt (GPT-2's). That of a run that we exported is ours again.

    Raises UserError where there is none of them, or one that cannot be used."""
    from minilm.runs.tokenizer_file import load_tokenizer  # which reads ours, and this one

    path = folder / "tokenizer.json"
    with contextlib.suppress(UserError):
        return load_tokenizer(path)
    settings = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).exists():
            settings |= read_json(folder / name)
    if path.exists():
        content = read_json(path)
    elif (folder / "vocab.txt").exists():
        path, content = folder / "vocab.txt", _from_vocab_txt(folder / "vocab.txt", settings)
    elif (folder / "vocab.json").exists():
        path, content = folder / "vocab.json", _from_merges(folder)
    else:
        raise UserError(f"{folder} has no tokenizer.json, vocab.txt, or vocab.json with merges.txt")
    wordpiece = (content.get("model") or {}).get("type") == "WordPiece"
    roles = dict(BERT_ROLES if wordpiece else GPT2_ROLES)
    for name, token in settings.items():
        token = token.get("content") if isinstance(token, dict) else token  # newer files say more
        if name.endswith("_token") and isinstance(token, str):
            roles[name] = token
    try:
        return ForeignTokenizer(content, roles)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _from_vocab_txt(path: Path, settings: dict) -> dict:
    library = import_library("tokenizers")
    try:
        made = library.BertWordPieceTokenizer(
            library.models.WordPiece.read_file(str(path)),
            handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
            strip_accents=settings.get("strip_accents"),
            lowercase=settings.get("do_lower_case", True),
        )
    except Exception as error:
        raise UserError(f"{path} cannot be read ({' '.join(str(error).split())[:100]})") from None
    return json.loads(made.to_str())


def _from_merges(folder: Path) -> dict:
    library, paths = import_library("tokenizers"), [folder / "vocab.json", folder / "merges.txt"]
    try:
        made = library.ByteLevelBPETokenizer.from_file(*map(str, paths))
    except Exception as error:
        reason = " ".join(str(error).split())[:100]
        raise UserError(f"{paths[0]} and merges.txt cannot be read ({reason})") from None
    end = GPT2_ROLES["eos_token"]
    if made.token_to_id(end) is not None:
        made.add_special_tokens([end])
    return json.loads(made.to_str())


def read_json(path: Path) -> dict:
    """A JSON file that holds an object. Raises UserError where it does not."""
    try:
        if not path.is_file() or path.stat().st_size > LARGEST_JSON:
            raise ValueError(f"no file of at most {LARGEST_JSON:,} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it holds no object")
        return content
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON ({str(error)[:100]})") from None


def import_library(name: str) -> ModuleType:
    """An optional library. Raises UserError that says how to get it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f'this needs the library {name}: pip install "minilm[hf]"') from None
