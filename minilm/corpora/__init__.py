"""Where texts come from: corpora known by name, and a person's own files.

The names `imdb`, `sms-spam` and `tinyshakespeare` stand for what `python -m minilm fetch` has put
into data/; `python-docs` needs no download.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from minilm.config import UserError
from minilm.corpora import named, python_docs
from minilm.corpora.files import (
    Document,
    Example,
    check_exists,
    ending,
    files_in,
    read_documents,
    read_examples,
)

__all__ = ["NAMES", "Document", "Example", "documents", "fingerprint", "labelled", "read_examples"]

_DOCUMENTS = {
    "python-docs": python_docs.documents,
    "imdb": named.imdb_documents,
    "sms-spam": named.sms_spam_documents,
    "tinyshakespeare": named.tinyshakespeare_documents,
}
_LABELLED = {
    "python-docs": python_docs.labelled,
    "imdb": named.imdb_labelled,
    "sms-spam": named.sms_spam_labelled,
}
NAMES = tuple(_DOCUMENTS)


def documents(
    data: Sequence[str], text_column: str = "text", encoding: str = "utf-8"
) -> Iterator[Document]:
    """Yield the texts to pretrain on; no text that a labelled task validates or tests on.

    `data` holds names of corpora, and paths of files and folders. A document is an iterable of
    strings, opened when it is read. Raises UserError for what is wrong with a file: at once where
    it is missing or of an unknown kind, else on reaching the place.
    """
    _check(data)
    return _documents(data, text_column, encoding)


def _documents(data: Sequence[str], text_column: str, encoding: str) -> Iterator[Document]:
    for item in data:
        if item in _DOCUMENTS:
            yield from _DOCUMENTS[item]()
        else:
            yield from read_documents(Path(item), text_column, encoding)


def labelled(name: str) -> dict[str, list[Example]]:
    """Return the examples of a corpus under "train", "test" and, where it has such, "valid"."""
    if name not in _LABELLED:
        why = "has no labels" if name in NAMES else "is no known corpus"
        raise UserError(
            f"--data {name} {why}: choose one of {', '.join(_LABELLED)}, or give --train FILE"
        )
    return _LABELLED[name]()


def fingerprint(data: Sequence[str], text_column: str = "text", encoding: str = "utf-8") -> str:
    """Return a short name for what `documents` would yield, without reading the texts.

    It changes with the names, the packages' versions, and the files' paths, sizes and times.
    """
    _check(data)
    facts: list = [text_column, encoding]
    for item in data:
        facts.append(item)
        if item == "python-docs":
            facts.append(python_docs.version())
        elif item in NAMES:
            facts += _stats(named.DATA / item)
        else:
            facts += _stats(Path(item))
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _stats(path: Path) -> list[tuple[str, int, int]]:
    path = path.resolve()
    files = sorted(map(str, path.rglob("*"))) if path.is_dir() else [str(path)]
    stats = [(file, os.stat(file)) for file in files if os.path.exists(file)]
    return [(file, stat.st_size, stat.st_mtime_ns) for file, stat in stats]


def _check(data: Sequence[str]) -> None:
    for item in data:
        if item in NAMES:
            continue
        path = Path(item)
        if not path.exists() and not path.suffix:
            raise UserError(
                f"--data {item}: neither a file, nor a folder, nor a corpus: "
                f"the corpora are {', '.join(NAMES)}"
            )
        check_exists(path)
        if path.is_dir():
            files_in(path)
        else:
            ending(path)
