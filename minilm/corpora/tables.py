"""From the bytes of a file to its lines, and from .csv, .tsv, .jsonl and .parquet files to rows."""

import codecs
import csv
import functools
import gzip
import io
import itertools
import json
import re
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from minilm.config import UserError
from minilm.io import terminal
from minilm.io.durable import write_file

# A byte order mark at the beginning names the encoding.
MARKS = {codecs.BOM_UTF8: "utf-8-sig"}
MARKS |= dict.fromkeys((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE), "utf-16")
TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
PREDICT = "a file without labels is for `python -m minilm predict RUN --file`"
_LIMIT = threading.Lock()
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}


class EmptyFile(UserError):
    """A file without any text in it; among other files it is left out."""


note = functools.cache(terminal.note)  # each sentence is said once, however often a file is read


def ending(path: Path) -> str:
    """The ending of a file's name in lower case; what stands before it where it is .gz."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def read_lines(path: Path, encoding: str = "utf-8", ends: bool = False) -> Iterator[str]:
    r"""Yield the lines of a file, or of its .gz. They end at \n and \r\n, written as \n (ends: left
    as they are), and at \r where the file has no \n; never at U+0085 or U+2028, which occur inside
    of texts. A byte order mark goes before `encoding`. Raises UserError; EmptyFile for nothing but
    blanks."""
    try:
        "".encode(encoding)  # refuses what is no encoding of text, such as "hex"
    except (LookupError, ValueError):
        raise UserError(f"--encoding {encoding}: no such encoding: try utf-8 or cp1252") from None
    if not path.is_file():  # a pipe may have no end, and no writer
        raise UserError(f"{path}: no such file, or not a regular file: check the name")
    opener, blank = gzip.open if path.name.lower().endswith(".gz") else open, True
    try:
        with opener(path, "rb") as file:
            head = file.read(4096)
            file.seek(0)
            marked = [name for mark, name in MARKS.items() if head.startswith(mark)]
            encoding = marked[0] if marked else encoding
            if b"\0" in head and not codecs.lookup(encoding).name.startswith(("utf-16", "utf-32")):
                raise UserError(f"{path}: NUL bytes near its start: {_with_zeros(head)}")
            text = io.TextIOWrapper(file, encoding, newline="\n")
            first = text.readline()  # all of it, where no \n is in it
            cut = re.findall("[^\r]*\r|[^\r]+", first)
            lines = itertools.chain([first], text) if first.endswith("\n") else cut
            for number, line in enumerate(lines, 1):
                if "\0" in line:
                    raise UserError(f"{path}: line {number} holds a NUL character: this is no text")
                blank = blank and not line.strip()
                line = line.removeprefix("\ufeff")  # of a file that was put behind another
                bare = line.rstrip("\r\n")
                yield line if ends else bare + "\n" * (bare != line)
    except UnicodeError:
        with opener(path, "rb") as file:
            raise UserError(f"{path}: {_undecodable(file.read(), encoding)}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: unreadable ({error}): get it again, or the right to it") from None
    if blank:
        raise EmptyFile(f"{path}: the file is empty: put some text into it or leave it out")


def _with_zeros(head: bytes) -> str:
    """What a file is that begins so: Western text in UTF-16 has a zero in every other byte."""
    even, odd = (half.count(0) > 0.7 * len(half) for half in (head[::2], head[1::2]))
    if even == odd:
        return "this is no text file, or one packed by gzip whose name should end in .gz"
    return f"try --encoding utf-16-{'be' if even else 'le'}"


def _undecodable(data: bytes, encoding: str) -> str:
    """Where a file is not written in `encoding`, and which one would fit."""
    try:
        data.decode(encoding)
        return "it has no byte order mark: try --encoding utf-16-le or utf-16-be"
    except UnicodeDecodeError as error:
        before = data[: error.start].decode(encoding, "ignore")
        line = 1 + before.count("\n" if b"\n" in data else "\r")
        wrong = f"0x{data[error.start]:02x} is not {encoding} ({error.reason})"
        place = f"line {line}, byte {error.start}: {wrong}"
    if encoding.startswith("utf-8"):
        in_utf8 = data.decode("utf-8", "replace")
        if len(re.findall("[^\0-\x7f\ufffd]", in_utf8)) > in_utf8.count("\ufffd"):
            return f"{place}: the rest of the file is: mend what stands there"
        western = "cp1252" if re.search(rb"[\x80-\x9f]", data) else "latin-1"
        foreign = len(re.findall(rb"[\x80-\xff]", data)) / len(data)
        if foreign < 0.4 and "\ufffd" not in data.decode(western, "replace"):
            return f"{place}: try --encoding {western}"
    return f"{place}: say which one it is, for instance --encoding cp1251, gb18030 or shift_jis"


def read_rows(path: Path, columns: dict[str, str], encoding: str) -> Iterator[tuple[str, dict]]:
    """Yield (place in the file, row) for every row of a table. `columns` are those that each must
    have, under the flags that choose them. Raises UserError; EmptyFile where it has no rows."""
    readers = {".parquet": _parquet_rows, ".jsonl": _json_rows, ".ndjson": _json_rows}
    read, place = readers.get(ending(path), _csv_rows), None
    for number, row in read(path, encoding, set(columns.values())):
        place = f"{path}: line {number}"
        for flag, column in columns.items():
            if column not in row:  # where the header is missing, the names may be whole texts
                found = ", ".join(repr(name[:30]) for name in list(row)[:12])
                choose = f"choose by {flag}" if flag.startswith("--") else "rename one"
                also = f"; {PREDICT}" if flag == "--label-column" else ""
                raise UserError(f"{place}: no column {column!r} among {found}: {choose} (a table "
                                f"begins with a line of names){also}")  # fmt: skip
        yield place, row
    if place is None:
        raise EmptyFile(f"{path}: a header but no rows: put some rows under it")


def text_of(row: dict, column: str, place: str) -> str:
    """The text of a row. Raises UserError where it is no text that could be printed or saved."""
    value, what = row[column], type(row[column]).__name__
    if what == "str" and re.search("[\ud800-\udfff]", value):  # which JSON's escapes can write
        what = "half of a surrogate pair"
    if what != "str":
        raise UserError(f"{place}: {column!r} is no text but {what}: mend the row")
    return value


def _json_rows(path: Path, encoding: str, _: set) -> Iterator[tuple[int, dict]]:
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


def _parquet_rows(path: Path, *_) -> Iterator[tuple[int, dict]]:
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


def _csv_rows(path: Path, encoding: str, wanted: set[str]) -> Iterator[tuple[int, dict]]:
    def lines() -> Iterator[str]:  # csv takes no \r inside of a line, but \0, which no file has
        return (re.sub(r"\r(?!\n?\Z)", "\0", line) for line in read_lines(path, encoding, True))

    first = next(line for line in lines() if line.strip())
    usual, headers = "\t" if ending(path) == ".tsv" else ",", {}
    for delimiter in (usual, *DELIMITERS):
        headers[delimiter] = _names(next(_cells([first], delimiter, strict=False))[1])
    # What gives the columns wanted separates them, or else what gives the most.
    best = max(headers, key=lambda d: (wanted <= set(headers[d]), len(headers[d])))
    header, tabs = headers[best], best == "\t"
    if twins := [name for name in wanted if header.count(name) > 1]:
        raise UserError(f"{path}: two columns of one name, {twins[0]!r}: rename one")
    if best != usual:
        note(f"{path}: its columns are separated by {DELIMITERS[best]}")
    columns = {i for i, name in enumerate(header) if name in wanted}
    bare = tabs and not _quoted(lines, len(header), columns)
    quoting = csv.QUOTE_NONE if bare else csv.QUOTE_MINIMAL
    spaced = not tabs and first.count(best) == first.count(best + " ") > 0  # text, label
    low = lambda names: [name.lower() for name in names if name]
    begins, past_header, known = 1, False, low(header)
    try:
        for ends, cells in _cells(lines(), best, quoting=quoting, skipinitialspace=spaced):
            line, begins, wrong = begins, ends + 1, None
            blank = not any(cells) and (len(header) > 1 or not cells)  # of one column "" is a row
            if not past_header or blank:
                past_header = past_header or any(cells)
                continue
            if any(cells[len(header) :]) or any(header[len(cells) :]):  # nameless ones may lack
                wrong = f"{len(cells)} cells under a header of {len(header)}: mend its quotes"
            elif tabs and any("\t" in cell and re.search(r"[\r\n]", cell) for cell in cells):
                wrong = "a cell in quotes goes over lines and holds tabs, like several rows"
            elif len(header) > 1 and sorted(again := low(_names(cells))) == sorted(known):
                if again == known:  # of a file that was put behind another
                    note(f"{path}: line {line}: the header again, left out")
                    continue
                wrong = "the header in another order: give the rows below a file of their own"
            if wrong:
                raise UserError(f"{path}: line {line}: {wrong}")
            yield line, {name: cell for name, cell in zip(header, cells, strict=False) if name}
    except csv.Error as error:
        raise UserError(f"{path}: line {begins} and on is broken ({error}): mend it") from None


def _names(cells: list[str]) -> list[str]:
    return [cell.strip().removeprefix("\ufeff").strip('"') for cell in cells]


def _cells(lines: Iterable[str], delimiter: str, **how) -> Iterator[tuple[int, list[str]]]:
    """The rows that csv finds, and in which line each ends. Its limit of 131,072 characters a cell
    holds for the whole process, and is lifted only while a row is read."""
    rows = csv.reader(lines, delimiter=delimiter, **{"strict": True, **how})
    while True:
        with _LIMIT:
            before = csv.field_size_limit(100_000_000)
            try:
                cells = next(rows, None)
            finally:
                csv.field_size_limit(before)
        if cells is None:
            return
        yield rows.line_num, [cell.replace("\0", "\r") for cell in cells]


def _quoted(lines: Callable[[], Iterator[str]], width: int, columns: set[int]) -> bool:
    """Whether quotes in a tab-separated file enclose cells; mostly they are characters.

    They do where each is needed (as doubled ones show) or all of its column has them (of the
    `columns` that are wanted), in rows of the right width. A quote that opens a cell must not
    swallow the rows up to the next one."""
    rows = lambda: (line.rstrip("\r\n").split("\t") for line in lines() if line.strip())
    if any(len(cells) != width for cells in rows()):  # a cell in quotes may go over lines
        try:
            table = (cells for _, cells in _cells(lines(), "\t"))
            return all(len(cells) == width for cells in table if any(cells))
        except csv.Error:
            return False
    cells = lambda: (cell for row in itertools.islice(rows(), 1, None) for cell in enumerate(row))
    if not all(re.fullmatch('[^"]*|"([^"]|"")*"', cell) for _, cell in cells()):
        return False
    bare = {column for column, cell in cells() if cell and '"' not in cell}
    needless = {column for column, cell in cells() if '"' in cell and '"' not in cell[1:-1]}
    return not bare & needless & columns


def write_rows(path: Path, rows: Iterable[dict]) -> None:
    """Write a new .jsonl, whole or not at all. Raises UserError, before it asks for a row, where
    that cannot be."""
    if path.suffix != ".jsonl" or path.exists() or not path.parent.is_dir():
        raise UserError(f"{path}: exists, or its folder does not, or is no .jsonl: --out NEW.jsonl")
    write_file(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
