"""The corpora that `python -m minilm fetch` brings: IMDB reviews, SMS spam, tiny Shakespeare.

Each function yields the texts that pretraining may see, or returns the labelled examples.
"""

from collections.abc import Iterator
from pathlib import Path

from minilm.config import UserError
from minilm.corpora.decoding import read_lines
from minilm.corpora.files import (
    Document,
    Example,
    files_in,
    read_documents,
    read_examples,
    read_text,
)
from minilm.corpora.splitting import fraction, normalised

DATA = Path("data")

# IMDB: Maas et al. (2011), Learning Word Vectors for Sentiment Analysis


def imdb_documents() -> Iterator[Document]:
    """Yield the train and unlabelled reviews, but for those that repeat a test review."""
    test = {_plain(example.text) for example in _imdb_examples("test")}
    for document in _imdb_raw():
        text = _plain("".join(document))
        if text not in test:
            yield [text]


def imdb_labelled() -> dict[str, list[Example]]:
    """Return 25,000 reviews, "pos" or "neg", to train on, and those to test on."""
    return {
        part: [Example(_plain(text), label) for text, label in _imdb_examples(part)]
        for part in ("train", "test")
    }


def _plain(review: str) -> str:
    return review.replace("<br />", "\n")


def _imdb_official() -> Path | None:
    """Return the folder of the unpacked archive, or None where the .jsonl.gz files are used."""
    folder = DATA / "imdb" / "aclImdb"
    return folder if folder.exists() else None


def _imdb_examples(part: str) -> list[Example]:
    if official := _imdb_official():
        examples = [
            Example(read_text(file), label)
            for label in ("neg", "pos")
            for file in files_in(_needed("imdb", official / part / label))
        ]
    else:
        examples = read_examples(_needed("imdb", DATA / "imdb" / f"{part}.jsonl.gz"))
    # One class after the other, as the archive has them, is an order that nobody should train in.
    return sorted(examples, key=lambda example: fraction(example.text, "order"))


def _imdb_raw() -> Iterator[Document]:
    if official := _imdb_official():
        paths = [official / "train" / folder for folder in ("neg", "pos", "unsup")]
    else:
        paths = [DATA / "imdb" / f"{part}.jsonl.gz" for part in ("train", "unsup")]
    for path in paths:
        yield from read_documents(_needed("imdb", path), "text", "utf-8")


# SMS Spam Collection: Almeida et al. (2011), UCI Machine Learning Repository, dataset 228


def sms_spam_documents() -> Iterator[Document]:
    """Yield the messages of the train part."""
    for example in sms_spam_labelled()["train"]:
        yield [example.text]


def sms_spam_labelled() -> dict[str, list[Example]]:
    """Return the messages, "ham" or "spam": about 80 % to train on and 20 % to test on.

    The collection repeats messages; each is taken once, and its text alone decides its part.
    """
    folder = DATA / "sms-spam"
    if (folder / "train.jsonl").exists():
        test = _needed("sms-spam", folder / "test.jsonl")
        return {"train": read_examples(folder / "train.jsonl"), "test": read_examples(test)}
    path = _needed("sms-spam", folder / "SMSSpamCollection")
    parts: dict[str, list[Example]] = {"train": [], "test": []}
    seen = set()
    for number, line in enumerate(read_lines(path), 1):
        label, tab, text = line.rstrip("\r\n").partition("\t")
        if not tab:
            raise UserError(f"{path}: line {number}: no tab after the label: fetch the file again")
        if (key := normalised(text)) not in seen:
            seen.add(key)
            part = "test" if fraction(text, "part") < 0.2 else "train"
            parts[part].append(Example(text, label))
    return parts


def tinyshakespeare_documents() -> Iterator[Document]:
    """Yield one document: the plays, 1.1 million characters."""
    path = _needed("tinyshakespeare", DATA / "tinyshakespeare" / "input.txt")
    yield from read_documents(path, "text", "utf-8")


def _needed(name: str, path: Path) -> Path:
    if not path.exists():
        raise UserError(
            f"{path}: not there yet: run `python -m minilm fetch {name}`, or put it there by hand "
            f"(data/README.md says where it comes from)"
        )
    return path
