"""Texts from files and folders: which files, their encoding and documents, without HTML's tags."""

import html
import os
import re
from collections.abc import Iterator
from pathlib import Path

from minilm.config import UserError
from minilm.corpora.tables import TABLES, EmptyFile, ending, note, read_lines, read_rows, text_of

HTML = (".html", ".htm", ".xhtml")
PLAIN = ".txt .text .md .markdown .rst .adoc .org .tex .log .srt .py .pyi .c .h .cc .cpp .hpp .cs"
PLAIN += " .java .js .ts .go .rs .rb .php .pl .r .jl .lua .kt .swift .scala .sh .sql"
KNOWN = (*PLAIN.split(), *HTML, *TABLES)
ENDINGS = f"in .txt, .md, .html, .py or the like, in {', '.join(TABLES)}, or in one of them and .gz"
END_OF_TEXT = "<|endoftext|>"  # what many collections of texts have between two of them
UNSEEN = re.compile(r"(?is)<!--.*?(?:-->|\Z)|<(script|style|template|noscript)\b.*?(?:</\1\s*>|\Z)")
REST = r"""(?:=\s*(?:"[^"]*"|'[^']*')|[^>])*+>"""  # of a tag; a quoted > does not end it
INLINE = re.compile(  # tags that end no line; most do
    r"(?i)</?(?:a|abbr|b|cite|code|del|em|font|i|img|ins|kbd|label|mark|q|s|samp|small|span|strong"
    r"|sub|sup|time|tt|u|var|wbr)\b" + REST
)


def read_text(path: Path, encoding: str = "utf-8") -> str:
    r"""The text of a file, or of its .gz: no byte order mark, and every line ends in \n."""
    return "".join(read_lines(path, encoding))


def read_documents(
    path: Path, text_column: str, encoding: str, separator: str | None = None
) -> Iterator[str]:
    r"""Yield the documents of a file: a table's rows, or all of any other text, cut at `separator`
    (None: at <|endoftext|>, which is said; "": nowhere; \n and \t are a line end and a tab)."""
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
        for place, row in read_rows(path, {"--text-column": text_column}, encoding):
            yield text_of(row, text_column, place)
    elif ending(path) not in HTML:
        yield read_text(path, encoding)
    elif text := without_tags(read_text(path, encoding)):
        yield text + "\n"
    else:
        raise EmptyFile(f"{path}: no text between its tags: leave it out")


def without_tags(page: str) -> str:
    """The text of a page. Line ends mean nothing in HTML but in <pre>; most tags end a line."""
    page = UNSEEN.sub("", page)
    page = re.sub(r"(?is)(<pre\b.*?(?:</pre|\Z))|\s+", lambda match: match[1] or " ", page)
    page = re.sub(r"<[a-zA-Z/!?]" + REST, "\n", INLINE.sub("", page))
    lines = (" ".join(line.split()) for line in html.unescape(page).split("\n"))
    return re.sub("\n{3,}", "\n\n", "\n".join(lines)).strip()


def texts_in(path: Path, text_column: str = "text", encoding: str = "utf-8") -> list[str]:
    """The texts to label in a file: a table's rows, the lines of a .txt, or all of any other."""
    if ending(path) == ".txt":
        return [line.strip() for line in read_lines(path, encoding)]  # blank ones keep their place
    return list(_texts(path, text_column, encoding))


def kind(path: Path) -> str:
    """The ending of a text's or table's name, as in KNOWN. Raises UserError for others."""
    if ending(path) not in KNOWN:
        raise UserError(f"{path}: unknown kind of file: the name must end {ENDINGS}")
    return ending(path)


def files_in(folder: Path) -> list[Path]:
    """The files below a folder whose endings are known, sorted. Links are followed, but no folder
    is read twice; what is left out is counted. Raises UserError where there is none."""

    def fail(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be read: {error.strerror}")

    found, left_out, seen = [], 0, set()
    for here, folders, names in os.walk(folder, followlinks=True, onerror=fail):
        if (there := os.path.realpath(here)) in seen:
            folders.clear()
            continue
        seen.add(there)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = [Path(here, name) for name in names if not name.startswith(".")]
        good = [path for path in paths if path.is_file() and ending(path) in KNOWN]
        found += good
        left_out += len(names) - len(good)
    if not found:
        raise UserError(f"{folder}: none of its {left_out} files has a name that ends {ENDINGS}")
    if left_out:
        note(f"{folder}: {left_out} files left out: hidden, or of an unknown kind")
    return sorted(found)
