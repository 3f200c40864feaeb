"""tokenizer.json: a tokenizer as a file, which the Hugging Face library `tokenizers` reads, too."""

import json
from collections.abc import Callable
from pathlib import Path

from minilm.config import UserError
from minilm.fast.bpe import FastTokenizer
from minilm.io.durable import read_bounded
from minilm.tokenizer import PATTERN, SPECIAL_TOKENS, Tokenizer

# GPT-2's visible stand-in for each byte, for JSON: its own character, or one from U+0100 on.
_VISIBLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_HIDDEN = sorted(set(range(256)) - set(_VISIBLE))
FOREIGN: list[Callable] = []  # makes a tokenizer that is not of ours: huggingface/ puts it here
STAND_IN = {b: chr(b) for b in _VISIBLE} | {b: chr(256 + i) for i, b in enumerate(_HIDDEN)}


def to_json(tokenizer: Tokenizer) -> str:
    """The content of tokenizer.json, for `load_tokenizer` and for Hugging Face's library."""
    if hasattr(tokenizer, "to_json"):
        return tokenizer.to_json()  # somebody else's, behind the wrapper in huggingface/
    return json.dumps(_content(tokenizer), ensure_ascii=False, indent=1)


def load_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer that `to_json` wrote: a FastTokenizer, or a ForeignTokenizer. Raises UserError,
    and never returns a tokenizer that differs from the one saved."""
    try:
        content = json.loads(read_bounded(path))
        if content.keys() == {"foreign", "roles"}:
            return FOREIGN[0](content["foreign"], content["roles"])
        content.pop("post_processor", None)  # what an export adds: <doc> around a text
        vocab, merges = content["model"]["vocab"], content["model"]["merges"]
        tokenizer = FastTokenizer([(vocab[a], vocab[b]) for a, b in merges])
        if _content(tokenizer) != content:
            raise UserError("its parts contradict each other, or its pattern is another")
        return tokenizer
    except Exception as error:  # whatever is wrong with it
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"{path}: not a tokenizer.json of ours ({reason}): restore the file, or "
                        f"train the tokenizer anew") from None  # fmt: skip


def _content(tokenizer: Tokenizer) -> dict:
    names = ["".join(map(STAND_IN.__getitem__, token)) for token in tokenizer.token_bytes]
    no = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    special = [{"id": i, "content": t, "special": True} for i, t in enumerate(SPECIAL_TOKENS)]
    split = {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated"}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    byte_level["trim_offsets"] = split["invert"] = False
    vocab = {name: i for i, name in enumerate(names)}
    merges = [[names[a], names[b]] for a, b in tokenizer.merges]
    return {
        "version": "1.0",
        "added_tokens": [token | no for token in special],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    }
