"""Bytes on disk to characters and lines. What is no text is named for what it is."""

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

MAGIC = {
    b"\x89PNG": "a PNG picture", b"\xff\xd8\xff": "a JPEG picture", b"GIF8": "a GIF picture",
    b"PK\x03\x04": "a zip archive (.zip, .pt, .docx, .xlsx)", b"%PDF": "a PDF",
    b"PAR1": "a parquet table: its name should end in .parquet",
    b"\x93NUMPY": "a NumPy array", b"SQLite format 3": "a database",
    b"\x1f\x8b": "compressed by gzip: its name should end in .gz",
}  # fmt: skip
MARKS = {  # a byte order mark at the beginning names the encoding; the longest is tried first
    codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip


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
        raise UserError(
            f"--encoding {encoding}: no such encoding: try utf-8, utf-16, latin-1 or cp1252"
        ) from None
    if path.exists() and not path.is_file():  # a pipe may have no end, and no writer
        raise UserError(f"{path}: not a regular file: give the path of a text file")
    opener = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with opener(path, "rb") as file:
            encoding = _encoding_of(path, file.read(4096), encoding)
            file.seek(0)
            yield io.TextIOWrapper(file, encoding, newline=newline)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        why = str(error).rstrip(".")
        raise UserError(f"{path}: damaged, or no gzip file ({why}): get it again") from None
    except UnicodeError:
        with opener(path, "rb") as file:
            raise _undecodable(path, file.read(), encoding) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None


def _encoding_of(path: Path, head: bytes, encoding: str) -> str:
    """The encoding to read with. Raises UserError where the first bytes of a file give away that it
    holds something else than text."""
    for mark, named in MARKS.items():
        if head.startswith(mark):
            return named
    for magic, kind in MAGIC.items():
        if head.startswith(magic):
            raise UserError(f"{path}: this is {kind}, not text: save it as plain text first")
    # Western text in UTF-16 has a zero in nearly every other byte.
    odd, even = (head[start::2].count(0) / max(len(head[start::2]), 1) for start in (1, 0))
    wide = "utf-16-be" if even > odd else "utf-16-le"
    name = codecs.lookup(encoding).name
    if name == "utf-16":
        return wide
    if b"\0" in head and not name.startswith(("utf-16", "utf-32")):
        looks = max(odd, even) > 0.7 > min(odd, even)
        what = f"this looks like UTF-16: try --encoding {wide}" if looks else "this is no text file"
        raise UserError(f"{path}: NUL bytes near its start: {what}")
    return encoding


def _undecodable(path: Path, data: bytes, encoding: str) -> UserError:
    """What to say of a file that is not written in `encoding`: where, and which one would fit."""
    error = _decoding_error(data, encoding)
    start = error.start if error else 0
    line = 1 + len(re.findall("\r\n?|\n", data[:start].decode(encoding, "ignore")))
    in_utf8 = data.decode("utf-8", "replace")
    lost, kept = in_utf8.count("\ufffd"), len(re.findall("[^\0-\x7f\ufffd]", in_utf8))
    foreign = len(re.findall(rb"[\x80-\xff]", data)) / len(data)
    western = "cp1252" if re.search(rb"[\x80-\x9f]", data) else "latin-1"
    advice = "say which one it is, for instance --encoding cp1251, gb18030 or shift_jis"
    if encoding.startswith("utf-8") and kept > lost:
        advice = "the rest of the file is: mend what stands there"
    elif encoding.startswith("utf-8") and foreign < 0.4 and not _decoding_error(data, western):
        advice = f"try --encoding {western}"
    why = error.reason if error else "no byte order mark"
    place = f"line {line}, byte {start}: 0x{data[start]:02x}"
    return UserError(f"{path}: {place} is not {encoding} ({why}): {advice}")


def _decoding_error(data: bytes, encoding: str) -> UnicodeDecodeError | None:
    try:
        data.decode(encoding)
    except UnicodeDecodeError as error:
        return error
