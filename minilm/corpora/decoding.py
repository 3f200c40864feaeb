"""Bytes on disk to characters and lines: whatever is no text is named for what it is."""

import codecs
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

from minilm.config import UserError

CHUNK = 1 << 20  # bytes read at once

MAGIC = {
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"PK\x03\x04": "a zip archive (.zip, .pt, .docx, .xlsx)",
    b"PAR1": "a parquet table",
    b"%PDF": "a PDF",
    b"\x93NUMPY": "a NumPy array",
    b"SQLite format 3": "a database",
    b"\x1f\x8b": "compressed by gzip: its name should end in .gz",
}


def read_chunks(path: Path, encoding: str = "utf-8") -> Iterator[str]:
    """Yield the characters of a file in pieces of about a megabyte, without a byte order mark."""
    try:
        "".encode(encoding)  # refuses what is no encoding of text, such as "hex"
        decoder = codecs.getincrementaldecoder(encoding)()
    except (LookupError, ValueError):
        raise UserError(
            f"--encoding {encoding}: no such encoding: try utf-8, utf-16, latin-1 or cp1252"
        ) from None
    lines, blank, at_start = 1, True, True
    start = 0  # the offset in the file of what the decoder sees next
    for data in _read_bytes(path):
        if start == 0:
            _check_is_text(path, data[:4096], encoding)
        pending = decoder.getstate()[0]
        try:
            text = decoder.decode(data, final=not data)
        except UnicodeError as error:
            raise _undecodable(path, encoding, error, lines, start - len(pending)) from None
        start += len(data)
        if at_start and text:
            text = text.removeprefix("\ufeff")
            at_start = False
        if "\0" in text:
            line = lines + text.count("\n", 0, text.index("\0"))
            raise UserError(f"{path}: line {line} holds a NUL character: this is no text file")
        lines += text.count("\n")
        blank = blank and (not text or text.isspace())
        if text:
            yield text
    if blank:
        raise UserError(f"{path}: the file is empty: put some text into it or leave it out")


def _read_bytes(path: Path) -> Iterator[bytes]:
    """Yield the bytes of a file, decompressed, in chunks; the last one is empty."""
    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
            data = b"more"
            while data:
                data = file.read(CHUNK)
                yield data
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        reason = str(error).rstrip(".")
        raise UserError(
            f"{path}: damaged, or no gzip file ({reason}): get or pack it again"
        ) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None


def _check_is_text(path: Path, head: bytes, encoding: str) -> None:
    """Raise UserError where the first bytes of a file give away that it holds something else."""
    for magic, kind in MAGIC.items():
        if head.startswith(magic):
            raise UserError(f"{path}: this is {kind}, not text: save it as plain text first")
    wide = codecs.lookup(encoding).name.startswith(("utf-16", "utf-32"))
    if not wide and (head.startswith((b"\xff\xfe", b"\xfe\xff")) or _looks_wide(head)):
        raise UserError(f"{path}: this looks like UTF-16: try --encoding utf-16")
    if not wide and b"\0" in head:
        raise UserError(f"{path}: NUL bytes near its start: this is no text file")


def _looks_wide(head: bytes) -> bool:
    """Whether nearly every other byte is zero, as in Western text in UTF-16."""
    zeros = max(head[::2].count(0), head[1::2].count(0))
    return zeros > 0.7 * len(head[::2]) and zeros < 0.7 * len(head)


def _undecodable(path, encoding, error: UnicodeError, lines: int, start: int) -> UserError:
    advice = "say which one it is, for instance --encoding latin-1"
    if not isinstance(error, UnicodeDecodeError):
        return UserError(f"{path}: not written in {encoding} ({error}): {advice}")
    good = error.object[: error.start].decode(encoding, "ignore")
    return UserError(
        f"{path}: line {lines + good.count(chr(10))}, byte {start + error.start}: 0x"
        f"{error.object[error.start]:02x} is not {encoding} ({error.reason}): {advice}"
    )


def read_lines(path: Path, encoding: str = "utf-8") -> Iterator[str]:
    r"""Yield the lines of a file with their ends, split at \n only.

    str.splitlines would also split at U+0085 and U+2028, which occur inside of texts.
    """
    pending: list[str] = []  # of a line longer than a chunk
    for chunk in read_chunks(path, encoding):
        *whole, tail = chunk.split("\n")
        for line in whole:
            yield "".join(pending) + line + "\n"
            pending.clear()
        pending.append(tail)
    if any(pending):
        yield "".join(pending)
