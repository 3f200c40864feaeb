"""Texts and labelled examples from a person's own files: .txt .jsonl .csv .tsv, their .gz, folders.

Whatever can be wrong with such a file raises UserError: one line with the path, the place in the
file, and what to do about it.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from minilm.config import UserError
from minilm.corpora.decoding import read_chunks, read_lines

Document = Iterable[str]
"""The chunks of one text. They come as a stream, so that a text may be larger than memory."""

ENDINGS = (".txt", ".jsonl", ".csv", ".tsv")
LONGEST_CELL = 100_000_000  # characters; csv's own limit of 131,072 is shorter than many a text


class Example(NamedTuple):
    """A text and what is to be said about it."""

    text: str
    label: str


def read_documents(path: Path, text_column: str, encoding: str) -> Iterator[Document]:
    """Yield the documents of a file or folder: a .txt is one, each row of a table is one.

    A folder is read file by file, by sorted path, as far as the endings are known.
    """
    if path.is_dir():
        for file in files_in(path):
            yield from read_documents(file, text_column, encoding)
    elif ending(path) == ".txt":
        # The decoder is asked only to turn \r\n into \n, also where a chunk ends between the two.
        newlines = io.IncrementalNewlineDecoder(None, translate=True)
        yield (newlines.decode(chunk) for chunk in read_chunks(path, encoding))
    else:
        for line, row in read_rows(path, {"--text-column": text_column}, encoding):
            text = text_of(row, text_column, path, line)
            if text.strip():
                yield [text]


def read_examples(
    path: Path | str,
    text_column: str = "text",
    label_column: str = "label",
    encoding: str = "utf-8",
) -> list[Example]:
    """Read the examples of a table, or of a folder whose sub-folders are the labels.

    Labels become strings without surrounding blanks. Raises UserError naming the path and line.
    """
    path = Path(path)
    check_exists(path)
    if path.is_dir():
        return _examples_in(path, encoding)
    if ending(path) == ".txt":
        raise UserError(
            f"{path}: a .txt holds no labels: give a .jsonl, .csv or .tsv with a {label_column!r} "
            f"column, or a folder with one sub-folder of .txt files per label"
        )
    columns = {"--text-column": text_column, "--label-column": label_column}
    return [
        Example(text_of(row, text_column, path, line), label_of(row, label_column, path, line))
        for line, row in read_rows(path, columns, encoding)
    ]


def _examples_in(folder: Path, encoding: str) -> list[Example]:
    labels = sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    if not labels:
        raise UserError(f"{folder}: no sub-folders: make one of .txt files for each label")
    return [
        Example(read_text(file, encoding), label.name)
        for label in labels
        for file in files_in(label)
    ]


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """Return the whole text of a .txt file."""
    if ending(path) != ".txt":
        raise UserError(f"{path}: a table among labelled texts: keep only .txt files there")
    (document,) = read_documents(path, "", encoding)
    return "".join(document)


def check_exists(path: Path) -> None:
    """Raise UserError unless there is a file or folder of that name."""
    if not path.exists():
        raise UserError(f"{path}: no such file or folder: check the name (seen from {Path.cwd()})")


def ending(path: Path) -> str:
    """Return ".txt", ".jsonl", ".csv" or ".tsv", also where .gz follows; UserError for others."""
    name = path.name.lower().removesuffix(".gz")
    for known in ENDINGS:
        if name.endswith(known):
            return known
    raise UserError(f"{path}: unknown kind of file: the name must end in {_known_endings()}")


def _known_endings() -> str:
    return ", ".join(ENDINGS) + " (or one of them and .gz)"


def files_in(folder: Path) -> list[Path]:
    """Return the files below a folder whose endings are known, sorted, hidden ones left out."""
    endings = tuple(known + gz for known in ENDINGS for gz in ("", ".gz"))
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.name.lower().endswith(endings)
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )
    if not files:
        raise UserError(f"{folder}: no file in it ends in {_known_endings()}")
    return files


# Tables


def read_rows(path: Path, columns: dict[str, str], encoding: str) -> Iterator[tuple[int, dict]]:
    """Yield (line number, row) for every row of a table.

    `columns` are those that each row must have, under the flags that choose them.
    """
    rows = _json_rows(path, encoding) if ending(path) == ".jsonl" else _csv_rows(path, encoding)
    line = None
    for line, row in rows:
        for flag, column in columns.items():
            if column not in row:
                raise UserError(
                    f"{path}: line {line}: no column {column!r}: choose one with {flag}; "
                    f"found: {_names(row)}"
                )
        yield line, row
    if line is None:
        raise UserError(f"{path}: a header but no rows: put some rows under it")


def _names(columns: Iterable[str]) -> str:
    """List the first columns, shortened: where the header is missing they may be whole texts."""
    return ", ".join(repr(name[:30]) for name in list(columns)[:12]) or "none"


def _json_rows(path: Path, encoding: str) -> Iterator[tuple[int, dict]]:
    for number, line in enumerate(read_lines(path, encoding), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: line {number}: broken JSON ({error}): mend it") from None
        if not isinstance(row, dict):
            raise UserError(
                f"{path}: line {number}: a JSON {type(row).__name__}, not an object: "
                f'write one {{"text": ...}} a line'
            )
        yield number, row


def _csv_rows(path: Path, encoding: str) -> Iterator[tuple[int, dict]]:
    csv.field_size_limit(LONGEST_CELL)
    delimiter = "\t" if ending(path) == ".tsv" else ","
    reader = csv.reader(read_lines(path, encoding), delimiter=delimiter, strict=True)
    header: list[str] = []
    begins = 1
    try:
        for cells in reader:
            number, begins = begins, reader.line_num + 1
            if not any(cells):
                continue  # a blank line
            if not header:
                header = [cell.strip() for cell in cells]
                if len(set(header)) < len(header):
                    names = _names(header)
                    raise UserError(f"{path}: two columns of one name in {names}: rename one")
            elif len(cells) != len(header):
                raise UserError(
                    f"{path}: line {number}: {len(cells)} cells under a header of {len(header)}: "
                    f"mend the row (quote a cell that holds a separator)"
                )
            else:
                yield number, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise UserError(
            f"{path}: the row that begins in line {begins} is broken ({error}): mend its quotes"
        ) from None


def text_of(row: dict, column: str, path: Path, line: int) -> str:
    """Return the text of a row; UserError where it is no text."""
    text = row[column]
    if not isinstance(text, str):
        kind = type(text).__name__
        raise UserError(f"{path}: line {line}: {column!r} is no text but {kind}: mend the row")
    return _checked(text, column, path, line)


def label_of(row: dict, column: str, path: Path, line: int) -> str:
    """Return the label of a row as a string without surrounding blanks; UserError if missing."""
    value = row[column]
    label = str(value).strip()
    if value is None or not label or label.lower() == "nan":
        raise UserError(f"{path}: line {line}: no label in {column!r}: give one or drop the row")
    if not isinstance(value, str | int | float):
        kind = type(value).__name__
        raise UserError(f"{path}: line {line}: {column!r} is a {kind}: a label is a word or number")
    return _checked(label, column, path, line)


def _checked(text: str, column: str, path: Path, line: int) -> str:
    """Refuse what JSON can write with escapes but nobody could print or save again."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(
            f"{path}: line {line}: {column!r} holds half of a surrogate pair (\\ud800 to \\udfff): "
            f"mend the row"
        ) from None
    return text
