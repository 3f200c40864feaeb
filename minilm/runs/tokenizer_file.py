"""tokenizer.json: a tokenizer in the format that the library `tokenizers` of Hugging Face reads."""

import json
from pathlib import Path

from minilm.config import UserError
from minilm.fast.bpe import FastTokenizer
from minilm.runs.bounded import read_bounded
from minilm.tokenizer import PATTERN, SPECIAL_TOKENS

LARGEST = 2**26  # bytes
# GPT-2's visible stand-in for each byte, for JSON: its own character, or one from U+0100 on.
_VISIBLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_HIDDEN = sorted(set(range(256)) - set(_VISIBLE))
STAND_IN = {b: chr(b) for b in _VISIBLE} | {b: chr(256 + i) for i, b in enumerate(_HIDDEN)}


def to_json(tokenizer) -> str:
    """The content of tokenizer.json."""
    if hasattr(tokenizer, "to_json"):  # somebody else's
        return tokenizer.to_json()
    return json.dumps(_content(tokenizer), ensure_ascii=False, indent=1)


def load_tokenizer(path: str | Path):
    """Read what `to_json` gave. Raises UserError, never gives a tokenizer that differs."""
    try:
        content = json.loads(read_bounded(Path(path), LARGEST))
        if "foreign" in content:
            from minilm.huggingface.tokenizers import ForeignTokenizer

            return ForeignTokenizer(content["foreign"], content["roles"])
        vocab, merges = content["model"]["vocab"], content["model"]["merges"]
        tokenizer = FastTokenizer([(vocab[a], vocab[b]) for a, b in merges])
        if _content(tokenizer) != content:
            raise ValueError("its parts contradict each other, or its pattern is another")
        return tokenizer
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"[:200]
        raise UserError(f"{path}: no tokenizer of ours ({reason}); train it anew") from None


def _content(tokenizer) -> dict:
    names = ["".join(map(STAND_IN.__getitem__, token)) for token in tokenizer.token_bytes]
    vocab = {name: i for i, name in enumerate(names)}
    merges = [[names[a], names[b]] for a, b in tokenizer.merges]
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
