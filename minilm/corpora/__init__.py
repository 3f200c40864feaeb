"""Where texts and labels come from: corpora known by name, and a person's own files.

The names `imdb`, `sms-spam` and `tinyshakespeare` stand for what `python -m minilm fetch` has put
into data/; `python-docs` needs no download.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from minilm.config import UserError
from minilm.corpora import python_docs, texts
from minilm.corpora.files import Example, fraction, normalised
from minilm.corpora.tables import EmptyFile, note, read_lines, read_rows
from minilm.corpora.texts import read_text
from minilm.io.durable import sha256_of

DATA = Path("data")


def documents(
    data: Sequence[str], text_column="text", encoding="utf-8", separator: str | None = None
) -> Iterator[tuple[str, str]]:
    """Yield (source, text) for the texts to pretrain on, none of which a labelled task validates or
    tests on, from names of corpora, and paths of files and folders. The source decides whether a
    text is validated on. separator: as in `read_documents`. Empty files are left out. Raises
    UserError for what is wrong, and where there is no text at all."""
    items, empty, any_text = _files(data), [], False
    how = text_column, encoding, separator
    for item in items:
        try:
            for text in _DOCUMENTS[item]() if item in NAMES else texts.read_documents(item, *how):
                any_text = True
                yield text if isinstance(text, tuple) else (text[:1000], text)
        except EmptyFile as error:
            empty.append(str(error))
    if not any_text:
        raise UserError(empty[0] if len(empty) == 1 else f"{len(items)} files, all empty: {data}")
    if empty:
        note(f"{len(empty)} empty file(s) left out (the first is {empty[0].partition(': ')[0]})")


def fingerprint(data: Sequence[str]) -> str:
    """A short name for what `documents` would read: it changes with the versions of the packages
    and with the content of the files (of corpora that were fetched, with names and sizes)."""
    facts: list = []
    for item in _files(data):
        if item == "python-docs":
            facts.append(python_docs.version())
        elif item in NAMES:
            found = sorted(path for path in (DATA / item).rglob("*") if path.is_file())
            facts += [(path.name, path.stat().st_size) for path in found]
        else:
            facts.append((texts.kind(item), sha256_of(item)))
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
            found += texts.files_in(path)
        elif not path.exists():
            raise UserError(f"{path}: no such file or folder, nor a corpus ({', '.join(NAMES)})")
        elif texts.kind(path):
            found.append(path)
    return found


def needed(name: str, *place: str) -> Path:
    """The path below data/NAME, if something is there. Raises UserError that says how to get it."""
    if not (path := Path(DATA, name, *place)).exists():
        raise UserError(f"{path}: missing: `python -m minilm fetch {name}`, or see data/README.md")
    return path


def _imdb(part: str, *labels: str) -> Iterator[Example]:
    """The reviews of the unpacked archive; without it, those of a .jsonl.gz file."""
    if Path(DATA, "imdb", "aclImdb").exists():
        folders = [needed("imdb", "aclImdb", part, label) for label in labels]
        found = (file for folder in folders for file in texts.files_in(folder))
        rows = ((read_text(file), file.parent.name) for file in found)
    else:
        path = needed("imdb", f"{'unsup' if 'unsup' in labels else part}.jsonl.gz")
        table = read_rows(path, {"--text-column": "text"}, "utf-8")
        rows = ((row["text"], row.get("label", "unsup")) for _, row in table)
    yield from (Example(text.replace("<br />", "\n"), label) for text, label in rows)


def _imdb_documents() -> Iterator[str]:
    """The train and unlabelled reviews, but for those that repeat a test review."""
    test = {normalised(text) for text, _ in _imdb("test", "neg", "pos")}
    for labels in (("neg", "pos"), ("unsup",)):
        yield from (text for text, _ in _imdb("train", *labels) if normalised(text) not in test)


def imdb() -> dict[str, list[Example]]:
    """25,000 reviews, "pos" or "neg", to train on, and those to test on, in a mixed order."""
    order = lambda review: fraction(review.text, "order")
    return {part: sorted(_imdb(part, "neg", "pos"), key=order) for part in ("train", "test")}


def sms_spam() -> dict[str, list[Example]]:
    """The messages, "ham" or "spam": about 80 % to train on and 20 % to test on. The collection
    repeats messages; each is taken once, and its text alone decides its part."""
    path, messages = needed("sms-spam", "SMSSpamCollection"), {}
    for number, line in enumerate(read_lines(path), 1):
        label, tab, text = line.rstrip("\n").partition("\t")
        if not tab:
            raise UserError(f"{path}: line {number}: no tab after the label: fetch the file again")
        messages.setdefault(normalised(text), Example(text, label))
    parts: dict[str, list[Example]] = {"train": [], "test": []}
    for message in messages.values():
        parts["test" if fraction(message.text, "part") < 0.2 else "train"].append(message)
    return parts


_DOCUMENTS = {
    "python-docs": python_docs.documents,
    "imdb": _imdb_documents,
    "sms-spam": lambda: (text for text, _ in sms_spam()["train"]),
    "tinyshakespeare": lambda: iter([read_text(needed("tinyshakespeare", "input.txt"))]),
}
NAMES = tuple(_DOCUMENTS)
