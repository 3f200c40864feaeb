"""Files that are whole or not there. A file system promises two things: what was synced stays, and
a rename happens wholly or not at all. Everything here is made of these two."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from minilm.config import UserError


def write_file(path: Path, content) -> None:
    """Write a file and wait until the disk has it; the old content stays until then. Raises
    UserError where the disk refuses."""
    beside = path.with_name(path.name + ".new")
    with writing(path, len(content)):
        try:
            with open(beside, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        except OSError:
            beside.unlink(missing_ok=True)  # a full disk needs the room
            raise


def sync(path: Path) -> None:
    """Wait until the disk has the content of a file, or knows the names in a folder (Windows does
    the latter by itself)."""
    if os.name != "nt" or not path.is_dir():
        handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def writing(path: Path, size: int = 0) -> Iterator[None]:
    """What the disk refuses within this context becomes a UserError that names the path and the
    bytes it needs (0: not known)."""
    try:
        yield
    except OSError as error:
        needs = f", which takes {size:,} bytes" * (size > 0)
        raise UserError(f"{path} cannot be written{needs} ({error.strerror or error}): nothing "
                        f"older is lost; make room, or get the right to write"
                        ) from None  # fmt: skip


def require_room(folder: Path, size: int) -> None:
    """Raise UserError where a disk has less than `size` bytes free."""
    if (free := shutil.disk_usage(folder).free) < size:
        raise UserError(f"{folder}: up to {size:,} bytes are needed for its checkpoints, {free:,} "
                        f"are free: make room, or use another disk with --run")  # fmt: skip
