"""Files: read within bounds, and written so that they are whole or not there. A file system
promises two things: what was synced stays, and a rename happens wholly or not at all."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from minilm.config import UserError

LARGEST = 2**26  # bytes of a file of JSON, which are read in about a second


def read_bounded(path: str | Path, most: int = LARGEST) -> bytes:
    """What a regular file of at most `most` bytes holds. Raises UserError where it is not one."""
    if not Path(path).is_file():  # a pipe has no end
        raise UserError(f"{path} is not there, or no regular file")
    with open(path, "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise UserError(f"{path} is larger than {most:,} bytes")
    return content


def fits(value, form) -> bool:
    """Whether plain data has a form: a type (int: of 64 bits; float: any number); a constant;
    {"a": form, ...}, a dict with these names; {str: form}, a dict of such; [form], a list of such;
    (form, ...), a list of just these; {form, None}, either of them, and None may be missing.

    >>> form = {"step": int, "values": {str: float}, "scores": [(int, float)], "kind": {"a", None}}
    >>> fits({"step": 3, "values": {}, "scores": [[3, 2]], "more": 1}, form)
    True
    """
    if isinstance(form, set):
        return any(fits(value, one) for one in form)
    if isinstance(form, tuple | list):
        forms = form * len(value) if isinstance(form, list) and isinstance(value, list) else form
        return isinstance(value, list) and len(value) == len(forms) and all(map(fits, value, forms))
    if isinstance(form, dict):
        form = dict.fromkeys(value, form[str]) if str in form and isinstance(value, dict) else form
        return isinstance(value, dict) and all(fits(value.get(k), form[k]) for k in form)
    if form in (int, float):
        return type(value) in (int, form) and abs(value) < (2**63 if form is int else 1e300)
    return type(value) is form or (type(value) is type(form) and value == form)


def read_json(path: str | Path, form):
    """What a file of JSON holds. Raises UserError where it is none of this form (`fits`)."""
    with damage(f"{path} is damaged"):
        value = json.loads(read_bounded(path))
        if not fits(value, form):
            raise ValueError("it does not hold what is written there")
    return value


def sha256_of(path: Path) -> str | None:
    """The sha256 of what a regular file holds, in hexadecimal; None where there is none."""
    if not path.is_file():
        return None
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_file(path: Path, content) -> None:
    """Write a file and wait until the disk has it; the old content stays until then. Raises
    UserError where the disk refuses."""
    beside = path.with_name(path.name + ".new")
    with writing(path):
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
    """Wait until the disk has the content of a file, or knows the names in a folder. Raises
    UserError where the disk refuses."""
    if os.name == "nt" and path.is_dir():  # where it cannot be done
        return
    with writing(path):
        handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """What the disk refuses within this context becomes a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error}): nothing older is "
                        f"lost; make room, or get the right to write") from None  # fmt: skip


@contextlib.contextmanager
def damage(what: str) -> Iterator[None]:
    """Whatever else than UserError is raised within this context becomes one: what, and why."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{what} ({' '.join(str(error).split())[:100]})") from None
