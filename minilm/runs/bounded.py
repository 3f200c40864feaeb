"""Reading a file that may be anything."""

import hashlib
import os
import stat
from pathlib import Path

from minilm.config import UserError


def read_bounded(path: str | Path, most: int) -> bytes:
    """The bytes of a regular file of at most `most` bytes. Raises UserError where it is not one."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise UserError(f"{path} is not a regular file")
    with open(path, "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise UserError(f"{path} is larger than {most:,} bytes")
    return content


def sha256_of(path: Path) -> str | None:
    """The sha256 of what a regular file holds, in hexadecimal; None where there is none."""
    if not path.is_file():  # a pipe has no end
        return None
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
