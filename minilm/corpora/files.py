"""Texts and labelled examples from a person's own files and folders."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

from minilm.config import UserError
from minilm.corpora.decoding import EmptyFile, note, read_lines, read_text
from minilm.corpora.tables import PREDICT, TABLES, ending, label_of, read_rows, text_of

HTML = (".html", ".htm", ".xhtml")
PLAIN = ".txt .text .md .markdown .rst .adoc .org .tex .log .srt .py .pyi .c .h .cc .cpp .hpp .cs"
PLAIN += " .java .js .ts .go .rs .rb .php .pl .r .jl .lua .kt .swift .scala .sh .sql"
INLINE = "a abbr b cite code del em font i img ins kbd label mark q s samp small span strong sub"
INLINE += " sup time tt u var wbr"  # tags that end no line
KNOWN = (*PLAIN.split(), *HTML, *TABLES)
ENDINGS = f"in .txt, .md, .html, .py or the like, in {', '.join(TABLES)}, or in one of them and .gz"
END_OF_TEXT = "<|endoftext|>"  # what many collections of texts have between two of them


class Example(NamedTuple):
    """A text and its label."""

    text: str
    label: str


def read_documents(
    path: Path, text_column: str, encoding: str, separator: str | None = None
) -> Iterator[str]:
    r"""Yield the documents of a file: of a table those of each row, of any other text all of it,
    both cut at `separator` (None: at <|endoftext|>, which is said; "": nowhere; \n and \t in it are
    a line end and a tab)."""
    end = END_OF_TEXT if separator is None else separator.replace("\\n", "\n").replace("\\t", "\t")
    for text in _texts(path, text_column, encoding):
        parts = text.split(end) if end else [text]
        if len(parts) > 1 and separator is None:
            note(f"{path}: a document ends at every {end} (--document-separator: another, '' none)")
        elif len(parts) == 1 and separator and ending(path) not in TABLES:
            note(f"{path}: --document-separator {separator!r} is not in it: one document")
        yield from (p.strip("\n") if len(parts) > 1 else p for p in parts if p.strip())


def _texts(path: Path, text_column: str, encoding: str) -> Iterator[str]:
    """Yield the text of each row of a table; all of any other file, without the tags of HTML."""
    if kind(path) in TABLES:
        for line, row in read_rows(path, {"--text-column": text_column}, encoding):
            yield text_of(row, text_column, path, line)
        return
    text = read_text(path, encoding)
    if ending(path) not in HTML:
        yield text
        return
    page = _Page()
    page.feed(text)
    page.close()
    lines = (" ".join(line.split()) for line in "".join(page.parts).split("\n"))
    if not (text := re.sub("\n{3,}", "\n\n", "\n".join(lines)).strip()):
        raise EmptyFile(f"{path}: no text between its tags: leave it out")
    yield text + "\n"


class _Page(HTMLParser):
    """Collects the text of a page. Line ends mean nothing in HTML; most tags end a line."""

    unseen = ("script", "style", "template", "noscript")

    def __init__(self):
        super().__init__()
        self.parts: list[str] = []
        self.open: Counter[str] = Counter()

    def handle_starttag(self, tag: str, attrs: list) -> None:
        """What follows is text or not; a line may end here."""
        self.open[tag] += 1
        if tag not in INLINE.split():
            self.parts.append("\n\n" if tag in ("p", "div", "pre", "h1", "h2", "h3") else "\n")

    def handle_endtag(self, tag: str) -> None:
        """The same at the end."""
        self.handle_starttag(tag, [])
        self.open[tag] = max(0, self.open[tag] - 2)

    def handle_data(self, data: str) -> None:
        """Text, or what only a browser reads."""
        if not any(self.open[tag] for tag in self.unseen):
            self.parts.append(data if self.open["pre"] else re.sub(r"\s+", " ", data))


def texts_in(path: Path, text_column: str = "text", encoding: str = "utf-8") -> list[str]:
    """The texts to label in a file: a table's rows, the lines of a .txt that are not blank, or all
    of any other text. Raises UserError."""
    check_exists(path)
    if ending(path) == ".txt":
        return [line.strip() for line in read_lines(path, encoding) if line.strip()]
    return list(_texts(path, text_column, encoding))


def read_examples(
    path: Path | str, text_column="text", label_column="label", encoding="utf-8"
) -> list[Example]:
    """Read the examples of a table. Labels become strings without surrounding blanks; none may be
    empty. Raises UserError naming the path and line."""
    check_exists(path := Path(path))
    if kind(path) not in TABLES:
        raise UserError(f"{path}: labels stand in a table ({', '.join(TABLES)}); {PREDICT} {path}")
    columns = {"--text-column": text_column, "--label-column": label_column}
    examples, without = [], []
    for line, row in read_rows(path, columns, encoding):
        label = label_of(row, label_column, path, line)
        examples.append(Example(text_of(row, text_column, path, line), label))
        without += [] if label else [line]
    if without:
        n, rows = len(without), len(examples)
        every = f"; another column: --label-column; {PREDICT} {path}" if n == rows else ""
        raise UserError(f"{path}: line {without[0]}: no label in {label_column!r}, as in {n:,} of "
                        f"{rows:,} rows: give one or drop the row{every}")  # fmt: skip
    return examples


def check_exists(path: Path, hint: str = "") -> None:
    """Raise UserError unless there is a file or folder of that name."""
    if not path.exists():
        raise UserError(f"{path}: no such file or folder: check the name{hint}")


def kind(path: Path) -> str:
    """The ending of a text's or table's name, as in KNOWN. Raises UserError for others."""
    if ending(path) not in KNOWN:
        raise UserError(f"{path}: unknown kind of file: the name must end {ENDINGS}")
    return ending(path)


def files_in(folder: Path) -> list[Path]:
    """The files below a folder whose endings are known, sorted. Links are followed, but no folder
    is read twice; what is left out is said. Raises UserError where there is none."""

    def fail(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be read: {error.strerror}")

    found, left_out, seen = [], Counter(), set()
    for here, folders, names in os.walk(folder, followlinks=True, onerror=fail):
        there = os.stat(here)
        if (there.st_dev, there.st_ino) in seen:
            left_out["linked to a folder that is read already"] += 1
            folders.clear()
            continue
        seen.add((there.st_dev, there.st_ino))
        left_out["hidden"] += sum(name.startswith(".") for name in folders + names)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in (Path(here, name) for name in names if not name.startswith(".")):
            if not path.is_file():
                left_out["pipes or links to nothing"] += 1
            elif ending(path) in KNOWN:
                found.append(path)
            else:
                left_out[ending(path) or "without an ending"] += 1
    what = ", ".join(f"{number} {name}" for name, number in left_out.most_common() if number)
    if not found:
        raise UserError(f"{folder}: no file in it has a name that ends {ENDINGS} (it has: {what})")
    if what:
        note(f"{folder}: left out: {what}")
    return sorted(found)
