"""Rows of .csv, .tsv, .jsonl and .parquet files, read and written."""

import contextlib
import csv
import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from minilm.config import UserError
from minilm.corpora.decoding import EmptyFile, note, read_lines
from minilm.runs.durable import write_file

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
LONGEST_CELL = 100_000_000  # characters; csv's own limit of 131,072 is shorter than many a text
PREDICT = "a file without labels is for `python -m minilm predict RUN --file FILE`, here"
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}


def ending(path: Path) -> str:
    """The ending of a file's name in lower case; what stands before it where it is .gz."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def read_rows(path: Path, columns: dict[str, str], encoding: str) -> Iterator[tuple[int, dict]]:
    """Yield (line number, row) for every row of a table.

    `columns` are those that each row must have, under the flags that choose them. Raises UserError
    where one is missing, and for what is wrong with the file; EmptyFile where it has no rows.
    """
    if ending(path) == ".parquet":
        rows = _parquet_rows(path)
    elif ending(path) in (".jsonl", ".ndjson"):
        rows = _json_rows(path, encoding)
    else:
        rows = _csv_rows(path, list(columns.values()), encoding)
    line = None
    for line, row in rows:
        for flag, column in columns.items():
            if column not in row:  # where the header is missing, the names may be whole texts
                found = ", ".join(repr(name[:30]) for name in list(row)[:12]) or "none"
                more = f"; {PREDICT} {path}" if flag == "--label-column" else ""
                raise UserError(f"{path}: line {line}: no column {column!r}: choose one with {flag}"
                                f"; found: {found} (a table begins with a line of such names)"
                                + more)  # fmt: skip
        yield line, row
    if line is None:
        raise EmptyFile(f"{path}: a header but no rows: put some rows under it")


def _json_rows(path: Path, encoding: str) -> Iterator[tuple[int, dict]]:
    for number, line in enumerate(read_lines(path, encoding), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError('no object like {"text": ...}')
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: line {number}: broken JSON ({error}): mend it") from None
        yield number, row


def _parquet_rows(path: Path) -> Iterator[tuple[int, dict]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise UserError(f"{path}: .parquet needs pyarrow: `pip install pyarrow`") from None
    try:
        with parquet.ParquetFile(path) as table:
            batches = table.iter_batches(1024)
            yield from enumerate((row for batch in batches for row in batch.to_pylist()), 1)
    except (OSError, ArrowException) as error:
        why = str(error).partition("\n")[0]
        raise UserError(f"{path}: no parquet table ({why}): get it again") from None


def _csv_rows(path: Path, columns: list[str], encoding: str) -> Iterator[tuple[int, dict]]:
    csv.field_size_limit(LONGEST_CELL)
    lines = functools.partial(read_lines, path, encoding, newline="")
    usual = "\t" if ending(path) == ".tsv" else ","
    first = next(line for line in lines() if line.strip())
    delimiter, header = _header(first, usual, columns)
    if twins := [column for column in columns if header.count(column) > 1]:
        raise UserError(f"{path}: two columns of one name, {twins[0]!r}: rename one")
    if delimiter != usual:
        note(f"{path}: its columns are separated by {DELIMITERS[delimiter]}")
    tabs = delimiter == "\t"
    quoting = csv.QUOTE_NONE if tabs and not _quoted(lines, len(header)) else csv.QUOTE_MINIMAL
    reader = csv.reader(lines(), delimiter=delimiter, quoting=quoting, strict=True)
    begins, at_header = 1, True
    try:
        for cells in reader:
            number, begins = begins, reader.line_num + 1
            if at_header or not any(cells):
                at_header = at_header and not any(cells)
                continue
            place = f"{path}: line {number}"
            if any(cells[len(header) :]) or any(header[len(cells) :]):  # nameless ones may lack
                raise UserError(f"{place}: {len(cells)} cells under a header of {len(header)}: "
                                f"quote a cell that holds a separator")  # fmt: skip
            if tabs and any("\t" in cell and ("\n" in cell or "\r" in cell) for cell in cells):
                raise UserError(f"{place}: a cell in quotes goes over lines and holds tabs, like "
                                f"several rows: save the table as .csv or .jsonl")  # fmt: skip
            yield number, {name: cell for name, cell in zip(header, cells, strict=False) if name}
    except csv.Error as error:
        raise UserError(f"{path}: the row from line {begins} on is broken ({error}): mend its "
                        f"quotes") from None  # fmt: skip


def _header(line: str, usual: str, wanted: Iterable[str]) -> tuple[str, list[str]]:
    """The delimiter and the names of the columns: whatever gives those wanted, or else the most."""
    found = {}
    for delimiter in dict.fromkeys((usual, *DELIMITERS)):
        cells = next(csv.reader([line], delimiter=delimiter))
        found[delimiter] = [cell.strip().strip('"') for cell in cells]
    fits = [delimiter for delimiter, names in found.items() if set(wanted) <= set(names)]
    best = fits[0] if fits else max(found, key=lambda delimiter: len(found[delimiter]))
    return best, found[best]


def _quoted(lines: Callable[[], Iterator[str]], width: int) -> bool:
    """Whether quotes in a tab-separated file enclose cells; mostly they are characters.

    They do where each is needed (as doubled ones show) or all of its column has them, in rows of
    the right width. A quote that opens a cell must not swallow the rows up to the next one.
    """
    fits, stray, bare, needless = True, False, set(), set()
    rows = (line.rstrip("\r\n").split("\t") for line in lines())
    for number, cells in enumerate(row for row in rows if any(row)):
        fits = fits and len(cells) == width
        for column, cell in enumerate(cells if number else ()):  # but those of the header
            if cell and '"' not in cell:
                bare.add(column)
            elif cell:
                stray = stray or not re.fullmatch('"([^"]|"")*"', cell)
                needless |= {column} if '"' not in cell[1:-1] else set()
    if fits:
        return not stray and not bare & needless
    with contextlib.suppress(csv.Error):  # a cell in quotes may go over lines
        table = csv.reader(lines(), delimiter="\t", strict=True)
        return all(len(cells) == width for cells in table if any(cells))
    return False


def text_of(row: dict, column: str, path: Path, line: int) -> str:
    """The text of a row. Raises UserError where it is no text."""
    value, place = row[column], f"{path}: line {line}: {column!r}"
    if not isinstance(value, str):
        raise UserError(f"{place} is no text but {type(value).__name__}: mend the row")
    try:  # what JSON can write with escapes, but nobody could print or save again
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(f"{place} holds half of a surrogate pair: mend the row") from None
    return value


def label_of(row: dict, column: str, path: Path, line: int) -> str:
    """The label of a row without surrounding blanks, "" for none (JSON's null and NaN). Words such
    as "nan" or "None" are labels like any other. Raises UserError for a list or an object."""
    value = row[column]
    if value is None or value != value:
        return ""
    if isinstance(value, int | float):
        value = str(value)
    return text_of({column: value}, column, path, line).strip()


def write_rows(path: Path, rows: Iterable[dict]) -> None:
    """Write a new .jsonl, whole or not at all. Raises UserError, before it asks for a row, where
    that cannot be."""
    if path.suffix != ".jsonl" or path.exists() or not path.parent.is_dir():
        raise UserError(f"{path}: exists, or its folder does not, or is no .jsonl: give --out")
    write_file(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
