"""Tensors in a file: only finite ones go in, and nothing but tensors and plain values comes out."""

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch

from minilm.config import NonFiniteError, UserError

DEEPEST = 50  # containers within each other: no state of ours has ten


def pack(state) -> bytes:
    """The file for nested dicts and lists of tensors and numbers. Raises NonFiniteError where a
    tensor holds an infinity or what is no number."""
    for name, tensor in _tensors(state):
        if not torch.isfinite(tensor).all():
            raise NonFiniteError(f"{name} is not finite, so it is not saved")
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def unpack(path: Path):
    """What was packed, on the CPU. Raises UserError where the file holds anything else: no code in
    it is run, and what would take more memory than the file has bytes is refused."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            size = sum(entry.file_size for entry in entries)
            if size > path.stat().st_size:
                raise ValueError("it unpacks to more than it is")
            for entry in entries:  # bytearray(10**12) is nothing that torch would refuse
                if entry.filename.endswith("data.pkl") and b"bytearray" in archive.read(entry):
                    raise ValueError("it asks for memory")
        state = torch.load(path, map_location="cpu", weights_only=True)
        if any(tensor.nbytes > size for _, tensor in _tensors(state)):
            raise ValueError("a tensor is larger than its file")
        return state
    except Exception as error:  # a file made to do harm may fail in any way
        kind = type(error).__name__
        raise UserError(f"{path} is not what minilm saves ({kind}): use another run") from None


def _tensors(state) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor in nested dicts and lists, with its name; each container once, however often it
    is there. Raises ValueError where they are nested more deeply than any state is."""
    waiting, seen = [((), state)], set()
    while waiting:
        path, value = waiting.pop()
        if len(path) > DEEPEST:
            raise ValueError("it is nested too deeply")
        if isinstance(value, torch.Tensor):
            yield ".".join(map(str, path)), value
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            parts = value.items() if isinstance(value, dict) else enumerate(value)
            waiting += [((*path, key), part) for key, part in parts]
