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
from minilm.corpora.decoding import EmptyFile, note
from minilm.corpora.files import Example, check_exists, files_in, kind, read_documents
from minilm.runs.durable import sha256_of

__all__ = ["NAMES", "Example", "documents", "fingerprint", "labelled"]

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
    data: Sequence[str], text_column="text", encoding="utf-8", separator: str | None = None
) -> Iterator[str]:
    """Yield the texts to pretrain on; no text that a labelled task validates or tests on.

    data: names of corpora, and paths of files and folders. separator: where a document ends within
    a file (None: at <|endoftext|>). Empty files are left out, which is said. Raises UserError for
    what is wrong with a file, and where there is no text at all.
    """
    empty, any_text, how = [], False, (text_column, encoding, separator)
    for item in _files(data):
        try:
            for text in _DOCUMENTS[item]() if item in NAMES else read_documents(item, *how):
                any_text = True
                yield text
        except EmptyFile as error:
            empty.append(str(error))
    if not any_text:
        raise UserError(empty[0] if len(empty) == 1 else f"{len(empty)} files, all empty: {data}")
    if empty:
        note(f"{len(empty)} empty file(s) left out (the first is {empty[0].partition(': ')[0]})")


def labelled(name: str) -> dict[str, list[Example]]:
    """The examples of a corpus under "train", "test" and, where it has such, "valid". Raises
    UserError where it has none or is not there."""
    if name not in _LABELLED:
        why = "has no labels" if name in NAMES else "is no known corpus"
        raise UserError(f"--data {name} {why}: choose {', '.join(_LABELLED)}, or --train FILE")
    return _LABELLED[name]()


def fingerprint(data: Sequence[str]) -> str:
    """A short name for what `documents` would read: it changes with the versions of the packages
    and with the content of the files (of corpora that were fetched, with names and sizes)."""
    facts: list = []
    for item in _files(data):
        if item == "python-docs":
            facts.append(python_docs.version())
        elif item in NAMES:
            folder = named.DATA / item
            facts += [(p.name, p.stat().st_size) for p in sorted(folder.rglob("*")) if p.is_file()]
        else:
            facts.append((kind(item), sha256_of(item)))
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]


def _files(data: Sequence[str]) -> list[str | Path]:
    """Names of corpora as they are, and every file, also of folders. Raises UserError for what is
    not there or of no known kind, before anything is read."""
    found: list[str | Path] = []
    for item in data:
        path = Path(item)
        if item in NAMES:
            found.append(item)
        elif path.is_dir():
            found += files_in(path)
        else:
            check_exists(path, "" if path.suffix else f", or name a corpus: {', '.join(NAMES)}")
            kind(path)
            found.append(path)
    return found
