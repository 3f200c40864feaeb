"""The corpora that `python -m minilm fetch` brings: IMDB reviews, SMS spam, tiny Shakespeare.

Each function yields the texts that pretraining may see, or returns the labelled examples.
"""

import functools
from collections.abc import Iterator
from pathlib import Path

from minilm.config import UserError
from minilm.corpora.decoding import read_lines, read_text
from minilm.corpora.files import Example, files_in
from minilm.corpora.splitting import fraction, normalised
from minilm.corpora.tables import read_rows

DATA = Path("data")


def imdb_documents() -> Iterator[str]:
    """Yield the train and unlabelled reviews, but for those that repeat a test review."""
    test = {normalised(text) for text, _ in _imdb("test", "neg", "pos")}
    for reviews in (_imdb("train", "neg", "pos"), _imdb("train", "unsup")):
        yield from (text for text, _ in reviews if normalised(text) not in test)


def imdb_labelled() -> dict[str, list[Example]]:
    """25,000 reviews, "pos" or "neg", to train on, and those to test on, in a mixed order."""
    mixed = functools.partial(sorted, key=lambda review: fraction(review.text, "order"))
    return {part: mixed(_imdb(part, "neg", "pos")) for part in ("train", "test")}


def _imdb(part: str, *labels: str) -> Iterator[Example]:
    """The reviews of the unpacked archive; without it, those of .jsonl.gz files."""
    folder = DATA / "imdb" / "aclImdb" / part
    if folder.exists():
        for label in labels:
            for file in files_in(needed("imdb", folder / label)):
                yield Example(read_text(file).replace("<br />", "\n"), label)
        return
    path = needed("imdb", DATA / "imdb" / f"{'unsup' if 'unsup' in labels else part}.jsonl.gz")
    for _, row in read_rows(path, {"--text-column": "text"}, "utf-8"):
        yield Example(row["text"].replace("<br />", "\n"), row.get("label", "unsup"))


def sms_spam_documents() -> Iterator[str]:
    """Yield the messages of the train part."""
    yield from (text for text, _ in sms_spam_labelled()["train"])


def sms_spam_labelled() -> dict[str, list[Example]]:
    """The messages, "ham" or "spam": about 80 % to train on and 20 % to test on.

    The collection repeats messages; each is taken once, and its text alone decides its part.
    """
    path = needed("sms-spam", DATA / "sms-spam" / "SMSSpamCollection")
    parts: dict[str, list[Example]] = {"train": [], "test": []}
    seen = set()
    for number, line in enumerate(read_lines(path), 1):
        label, tab, text = line.rstrip("\n").partition("\t")
        if not tab:
            raise UserError(f"{path}: line {number}: no tab after the label: fetch the file again")
        if (key := normalised(text)) not in seen:
            seen.add(key)
            part = "test" if fraction(text, "part") < 0.2 else "train"
            parts[part].append(Example(text, label))
    return parts


def tinyshakespeare_documents() -> Iterator[str]:
    """Yield one document: the plays, 1.1 million characters."""
    yield read_text(needed("tinyshakespeare", DATA / "tinyshakespeare" / "input.txt"))


def needed(name: str, path: Path) -> Path:
    """The path, if something is there. Raises UserError that says how to get it."""
    if not path.exists():
        raise UserError(f"{path}: not there yet: run `python -m minilm fetch {name}`, or see "
                        f"data/README.md for where it comes from")  # fmt: skip
    return path
