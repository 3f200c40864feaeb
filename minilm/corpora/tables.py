"""Rows of .csv, .tsv, .jsonl and .parquet files, read and written.

Whatever can be wrong with such a file raises UserError: one line with the path, the place in the
file, and what to do about it.
"""

import contextlib
import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from minilm.config import UserError
from minilm.corpora.decoding import EmptyFile, note, read_lines

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
    kind = ending(path)
    if kind == ".parquet":
        rows = _parquet_rows(path, columns)
    elif kind in (".jsonl", ".ndjson"):
        rows = _json_rows(path, encoding)
    else:
        rows = _csv_rows(path, columns, encoding)
    line = None
    for line, row in rows:
        for flag, column in columns.items():
            if column not in row:
                raise _missing(path, line, flag, column, row)
        yield line, row
    if line is None:
        raise EmptyFile(f"{path}: a header but no rows: put some rows under it")


def _missing(path: Path, line: int, flag: str, column: str, names: Iterable[str]) -> UserError:
    # Where the header is missing, these may be whole texts.
    found = ", ".join(repr(name[:30]) for name in list(names)[:12]) or "none"
    advice = f"choose one with {flag}; found: {found}"
    if ending(path) in (".csv", ".tsv"):
        advice += " (if this is a row already, put a line with the columns' names above it)"
    if flag == "--label-column":
        advice += f"; {PREDICT} {path}"
    return UserError(f"{path}: line {line}: no column {column!r}: {advice}")


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


def _parquet_rows(path: Path, columns: dict[str, str]) -> Iterator[tuple[int, dict]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise UserError(f"{path}: .parquet needs pyarrow: `pip install pyarrow`") from None
    try:
        with parquet.ParquetFile(path) as table:
            names = table.schema_arrow.names
            wanted = [column for column in columns.values() if column in names] or names
            batches = table.iter_batches(1024, columns=wanted)
            yield from enumerate((row for batch in batches for row in batch.to_pylist()), 1)
    except (OSError, ArrowException) as error:
        why = str(error).partition("\n")[0]
        raise UserError(f"{path}: no parquet table ({why}): get it again") from None


def _csv_rows(path: Path, columns: dict[str, str], encoding: str) -> Iterator[tuple[int, dict]]:
    csv.field_size_limit(LONGEST_CELL)

    def lines() -> Iterator[str]:
        return read_lines(path, encoding, newline="")

    usual = "\t" if ending(path) == ".tsv" else ","
    first = next(line for line in lines() if line.strip())
    delimiter, header = _header(first, usual, columns.values())
    for flag, column in columns.items():
        if header.count(column) > 1:
            raise UserError(f"{path}: two columns of one name, {column!r}: rename one")
        if column not in header:
            raise _missing(path, 1, flag, column, header)
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
                raise UserError(
                    f"{place}: {len(cells)} cells under a header of {len(header)}: mend the row "
                    f"(quote a cell that holds a separator)"
                )
            if tabs and any("\t" in cell and ("\n" in cell or "\r" in cell) for cell in cells):
                raise UserError(
                    f"{place}: a cell in quotes goes over lines and holds tabs: one cell, or "
                    f"several rows? Save the table as .csv or .jsonl"
                )
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
    if not isinstance(row[column], str):
        kind = type(row[column]).__name__
        raise UserError(f"{path}: line {line}: {column!r} is no text but {kind}: mend the row")
    return _encodable(row[column], column, path, line)


def label_of(row: dict, column: str, path: Path, line: int) -> str:
    """The label of a row without surrounding blanks, "" for none (JSON's null and NaN). Words such
    as "nan" or "None" are labels like any other. Raises UserError for a list or an object."""
    value = row[column]
    if value is None or value != value:
        return ""
    if not isinstance(value, str | int | float):
        kind = type(value).__name__
        raise UserError(f"{path}: line {line}: {column!r} is a {kind}: a label is a word or number")
    return _encodable(str(value).strip(), column, path, line)


def _encodable(text: str, column: str, path: Path, line: int) -> str:
    try:  # what JSON can write with escapes, but nobody could print or save again
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(
            f"{path}: line {line}: {column!r} holds half of a surrogate pair (\\ud800 to \\udfff): "
            f"mend the row"
        ) from None
    return text


@contextlib.contextmanager
def new_table(path: Path, names=("text", "label", "probability")) -> Iterator[Callable]:
    """Yield write(*row) for a new .jsonl or .csv with columns of these names. The file is removed
    again if anything goes wrong. Raises UserError where it is there already or cannot be made."""
    if path.suffix not in (".jsonl", ".csv"):
        raise UserError(f"--out {path}: the name must end in .jsonl or .csv")

    def write(*row) -> None:
        """Append a row."""
        if path.suffix == ".csv":  # csv.writer leaves a lone \r bare before Python 3.11.9
            cells = [str(cell).replace('"', '""') for cell in row]
            cells = [f'"{cell}"' if re.search('[",\r\n]', cell) else cell for cell in cells]
            file.write(",".join(cells) + "\n")
        else:
            line = json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False)
            file.write(line + "\n")

    made = False
    try:
        with path.open("x", encoding="utf-8", newline="") as file:
            made = True
            if path.suffix == ".csv":
                write(*names)
            yield write
    except BaseException as error:
        if made:
            path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise UserError(
                f"{path} cannot be written ({error.strerror}): name another file with --out"
            ) from None
        raise
