"""Where texts and labels come from: corpora known by name, and a person's own files.

The names `imdb`, `sms-spam` and `tinyshakespeare` stand for what `python -m minilm fetch` has put
into data/; `python-docs` needs no download.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from minilm.config import UserError
from minilm.corpora import named, python_docs
from minilm.corpora.files import (
    Example,
    check_exists,
    files_in,
    kind,
    read_documents,
    read_examples,
    skip_empty,
)

__all__ = ["NAMES", "Example", "documents", "fingerprint", "labelled", "read_examples"]

_DOCUMENTS = {
    "python-docs": python_docs.documents,
    "imdb": named.imdb_documents,
    "sms-spam": named.sms_spam_documents,
    "tinyshakespeare": named.tinyshakespeare_documents,
}
_LABELLED = {
    "python-docs": python_docs.labelled,
    "python-docs-whole": python_docs.labelled_whole,
    "imdb": named.imdb_labelled,
    "sms-spam": named.sms_spam_labelled,
}
NAMES = tuple(_DOCUMENTS)


def documents(
    data: Sequence[str],
    text_column: str = "text",
    encoding: str = "utf-8",
    separator: str | None = None,
) -> Iterator[str]:
    """Yield the texts to pretrain on; no text that a labelled task validates or tests on.

    data: names of corpora, and paths of files and folders. separator: where a document ends within
    a file (None: at <|endoftext|>). Raises UserError for what is wrong with a file.
    """

    def read(item: str | Path) -> Iterator[str]:
        if item in _DOCUMENTS:
            return _DOCUMENTS[item]()
        return read_documents(item, text_column, encoding, separator)

    return skip_empty(_files(data), read)


def labelled(name: str) -> dict[str, list[Example]]:
    """The examples of a corpus under "train", "test" and, where it has such, "valid". Raises
    UserError where it has none or is not there."""
    if name not in _LABELLED:
        why = "has no labels" if name in NAMES else "is no known corpus"
        raise UserError(
            f"--data {name} {why}: choose one of {', '.join(_LABELLED)}, or give --train FILE"
        )
    return _LABELLED[name]()


def fingerprint(data: Sequence[str]) -> str:
    """A short name for what `documents` would read. It changes with the versions of the packages,
    with the number, kinds and sizes of the files, and with their heads, middles and tails."""
    facts: list = []
    for item in _files(data):
        if item == "python-docs":
            facts.append(python_docs.version())
        elif item in NAMES:
            folder = named.DATA / item
            facts += [(p.name, p.stat().st_size) for p in sorted(folder.rglob("*")) if p.is_file()]
        else:
            facts.append((kind(item), _content(item)))
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]


def _content(path: Path, size: int = 2**16) -> str:
    with path.open("rb") as file:
        length = file.seek(0, 2)
        digest = hashlib.sha256(str(length).encode())
        for start in (0, max(0, length // 2 - size // 2), max(0, length - size)):
            file.seek(start)
            digest.update(file.read(size))
    return digest.hexdigest()


def _files(data: Sequence[str]) -> list[str | Path]:
    """Names of corpora as they are, and every file, also of folders."""
    found: list[str | Path] = []
    for item in data:
        path = Path(item)
        if item in NAMES:
            found.append(item)
        elif path.is_dir():
            found += files_in(path)
        else:
            hint = "" if path.suffix else f", or name a corpus: {', '.join(NAMES)}"
            check_exists(path, hint)
            kind(path)
            found.append(path)
    return found
