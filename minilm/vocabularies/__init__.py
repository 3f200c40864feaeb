"""Vocabularies that others learnt, read from their files: what imported weights need."""

import json
from pathlib import Path

from minilm.errors import UserError
from minilm.tokenizer import Tokenizer
from minilm.vocabularies.byte_level import ByteLevel
from minilm.vocabularies.foreign import ForeignTokenizer
from minilm.vocabularies.wordpiece import WordPiece

FOREIGN = {"WordPiece": WordPiece, "BPE": ByteLevel}


def make_foreign(content: dict, roles: dict[str, str]) -> ForeignTokenizer:
    """The tokenizer that a tokenizer.json of Hugging Face's describes. Raises UserError for one
    that works in a way of its own."""
    model = content.get("model")
    kind = model.get("type") if isinstance(model, dict) else None
    if kind not in FOREIGN:
        raise UserError(f"a tokenizer of type {kind!r}: only {' and '.join(FOREIGN)} are known")
    try:
        return FOREIGN[kind](content, roles)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"[:100]
        raise UserError(f"the tokenizer is damaged or of another version ({reason})") from None


def load_tokenizer(path: str | Path) -> Tokenizer | ForeignTokenizer:
    """The tokenizer of a run: ours, or that of imported weights. Raises UserError where the file
    is neither."""
    try:
        saved = json.loads(Path(path).read_text(encoding="utf-8"))
        foreign = isinstance(saved, dict) and "foreign" in saved
    except (OSError, ValueError, RecursionError):
        foreign = False  # Tokenizer.load says what is wrong
    if not foreign:
        return Tokenizer.load(path)
    try:
        return make_foreign(saved["foreign"], saved["roles"])
    except (UserError, LookupError, AttributeError) as error:
        raise UserError(f"{path}: {error}; import the weights anew") from None
