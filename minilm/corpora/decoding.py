"""Bytes on disk to characters and lines."""

import codecs
import contextlib
import functools
import gzip
import io
import re
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from minilm.config import UserError

# A byte order mark at the beginning names the encoding.
MARKS = {codecs.BOM_UTF8: "utf-8-sig"}
MARKS |= dict.fromkeys((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE), "utf-16")


class EmptyFile(UserError):
    """A file without any text in it; among other files it is left out."""


@functools.cache  # each sentence is said once, however often a file is read
def note(message: str) -> None:
    """Tell the person at the terminal something about their files, without disturbing a bar."""
    tqdm.write(message, file=sys.stderr)


def read_text(path: Path, encoding: str = "utf-8") -> str:
    r"""The text of a file, or of its .gz: no byte order mark, and every line ends in \n."""
    return "".join(read_lines(path, encoding))


def read_lines(path: Path, encoding: str = "utf-8", newline: str | None = None) -> Iterator[str]:
    r"""Yield the lines of a file, or of its .gz. They end at \n, \r\n and \r, and nowhere else:
    str.splitlines would also split at U+0085 and U+2028, which occur inside of texts.

    newline: None writes each of the three as \n, "" leaves them. A byte order mark goes before
    `encoding`. Raises UserError naming the place; EmptyFile where there is nothing but blanks.
    """
    blank = True
    with _opened(path, encoding, newline) as file:
        for number, line in enumerate(file, 1):
            if "\0" in line:
                raise UserError(f"{path}: line {number} holds a NUL character: this is no text")
            blank = blank and not line.strip()
            yield line
    if blank:
        raise EmptyFile(f"{path}: the file is empty: put some text into it or leave it out")


@contextlib.contextmanager
def _opened(path: Path, encoding: str, newline: str | None) -> Iterator[io.TextIOWrapper]:
    try:
        "".encode(encoding)  # refuses what is no encoding of text, such as "hex"
    except (LookupError, ValueError):
        raise UserError(f"--encoding {encoding}: no such encoding: try utf-8 or cp1252") from None
    if path.exists() and not path.is_file():  # a pipe may have no end, and no writer
        raise UserError(f"{path}: not a regular file: give the path of a text file")
    opener = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with opener(path, "rb") as file:
            head = file.read(4096)
            file.seek(0)
            encoding = next((name for mark, name in MARKS.items() if head.startswith(mark)),
                            encoding)  # fmt: skip
            if b"\0" in head and not codecs.lookup(encoding).name.startswith(("utf-16", "utf-32")):
                raise UserError(f"{path}: {_with_zeros(head)}")
            yield io.TextIOWrapper(file, encoding, newline=newline)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        why = str(error).rstrip(".")
        raise UserError(f"{path}: damaged, or no gzip file ({why}): get it again") from None
    except UnicodeError:
        with opener(path, "rb") as file:
            raise UserError(f"{path}: {_undecodable(file.read(), encoding)}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None


def _with_zeros(head: bytes) -> str:
    """What a file is that begins so: Western text in UTF-16 has a zero in every other byte."""
    even, odd = (head[start::2].count(0) / len(head[::2]) for start in (0, 1))
    what = "this is no text file, or one packed by gzip whose name should end in .gz"
    if max(odd, even) > 0.7 > min(odd, even):
        what = f"this looks like UTF-16: try --encoding utf-16-{'be' if even > odd else 'le'}"
    return f"NUL bytes near its start: {what}"


def _undecodable(data: bytes, encoding: str) -> str:
    """Where a file is not written in `encoding`, and which one would fit."""
    error = _decoding_error(data, encoding)
    if not error:
        return "it has no byte order mark: try --encoding utf-16-le or utf-16-be"
    line = 1 + len(re.findall("\r\n?|\n", data[: error.start].decode(encoding, "ignore")))
    western = "cp1252" if re.search(rb"[\x80-\x9f]", data) else "latin-1"
    advice = "say which one it is, for instance --encoding cp1251, gb18030 or shift_jis"
    if encoding.startswith("utf-8"):
        in_utf8 = data.decode("utf-8", "replace")
        lost, kept = in_utf8.count("\ufffd"), len(re.findall("[^\0-\x7f\ufffd]", in_utf8))
        foreign = len(re.findall(rb"[\x80-\xff]", data)) / len(data)
        if kept > lost:
            advice = "the rest of the file is: mend what stands there"
        elif foreign < 0.4 and not _decoding_error(data, western):
            advice = f"try --encoding {western}"
    place = f"line {line}, byte {error.start}: 0x{data[error.start]:02x}"
    return f"{place} is not {encoding} ({error.reason}): {advice}"


def _decoding_error(data: bytes, encoding: str) -> UnicodeDecodeError | None:
    try:
        data.decode(encoding)
    except UnicodeDecodeError as error:
        return error
