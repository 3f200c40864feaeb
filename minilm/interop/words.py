"""The tokenizer of a Hugging Face folder, whichever of three ways its files say it."""

import contextlib
from pathlib import Path

from minilm.errors import UserError
from minilm.interop.files import read_json
from minilm.tokenizer import Tokenizer
from minilm.vocabularies import ForeignTokenizer, make_foreign

# What the tokens are called where no file says so.
BERT_ROLES = dict(
    pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]"
)
GPT2_ROLES = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")


def read_tokenizer(folder: Path) -> Tokenizer | ForeignTokenizer:
    """From tokenizer.json, or vocab.txt (BERT's), or vocab.json with merges.txt (GPT-2's). That of
    a run that was exported is ours again.

    Raises UserError where there is none of them, or one that works in a way of its own."""
    with contextlib.suppress(UserError):
        return Tokenizer.load(folder / "tokenizer.json")
    settings = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).exists():
            settings |= read_json(folder / name)
    if (folder / "tokenizer.json").exists():
        path, content = folder / "tokenizer.json", read_json(folder / "tokenizer.json")
        wordpiece = (content.get("model") or {}).get("type") == "WordPiece"
        roles = BERT_ROLES if wordpiece else GPT2_ROLES
    elif (folder / "vocab.txt").exists():
        path, roles = folder / "vocab.txt", BERT_ROLES
        content = from_vocab_txt(read_lines(path), settings)
    elif (folder / "vocab.json").exists():
        path, roles = folder / "vocab.json", GPT2_ROLES
        content = from_merges(read_json(path), read_lines(folder / "merges.txt"))
    else:
        raise UserError(f"{folder} has no tokenizer.json, vocab.txt, or vocab.json with merges.txt")
    said = {name: _content(settings[name]) for name in settings if name.endswith("_token")}
    known = {name: token for name, token in said.items() if isinstance(token, str)}
    try:
        return make_foreign(content, roles | known)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def read_lines(path: Path) -> list[str]:
    """The lines of a file. Raises UserError where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error})") from None


def _content(token) -> str | None:
    """A token by its name; newer files say more about it than that."""
    return token.get("content") if isinstance(token, dict) else token


def from_vocab_txt(lines: list[str], settings: dict) -> dict:
    """The tokenizer.json of BERT's words, one a line in the order of their ids."""
    words = [line.rstrip("\r") for line in lines]
    if words and not words[-1]:
        words.pop()  # after the last line's end
    vocab = {word: i for i, word in enumerate(words)}
    special = [name for name in BERT_ROLES.values() if name in vocab]
    cls, sep = ({"SpecialToken": {"id": name, "type_id": 0}} for name in ("[CLS]", "[SEP]"))
    around = {
        name: {"id": name, "ids": [vocab.get(name)], "tokens": [name]}
        for name in ("[CLS]", "[SEP]")
    }
    first, second = ({"Sequence": {"id": "AB"[i], "type_id": i}} for i in range(2))
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added_token(vocab[name], name) for name in special],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": settings.get("tokenize_chinese_chars", True),
            "strip_accents": settings.get("strip_accents"),
            "lowercase": settings.get("do_lower_case", True),
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [cls, first, sep],
            "pair": [cls, first, sep, second, {"SpecialToken": {"id": "[SEP]", "type_id": 1}}],
            "special_tokens": around,
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocab,
        },
    }


def from_merges(vocab: dict, lines: list[str]) -> dict:
    """The tokenizer.json of GPT-2's words and merges, one a line, the first learnt first."""
    merges = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    end = GPT2_ROLES["eos_token"]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    byte_level["use_regex"] = True
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added_token(vocab[end], end)] if end in vocab else [],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": byte_level,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocab,
            "merges": merges,
        },
    }


def added_token(i: int, name: str) -> dict:
    """An entry of tokenizer.json for a special token."""
    no = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": i, "content": name, "special": True, **no}
