"""The files of a Hugging Face folder: JSON, and tensors in either of two formats.

model.safetensors is 8 bytes that say how long a JSON header is, the header, which says for each
tensor its dtype, its shape, and where in the rest of the file its bytes are, and that rest.
"""

import json
import math
import struct
from pathlib import Path

import torch
from torch import Tensor

from minilm.errors import UserError
from minilm.tensor_file import unpack

LARGEST = 2**26  # bytes of JSON: GPT-2's words alone are more than 2**20
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


def read_json(path: Path) -> dict:
    """A JSON file that holds an object. Raises UserError where it does not."""
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError("it is too large")
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it holds no object")
        return content
    except FileNotFoundError:
        raise UserError(f"{path}: no such file: give a folder of Hugging Face's") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON ({str(error)[:100]})") from None


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors of model.safetensors or else pytorch_model.bin, by name; nothing else is ever
    read from the latter. Raises UserError where there is neither, or a damaged one."""
    path = folder / "model.safetensors"
    if path.exists():
        return read_safetensors(path)
    path = folder / "pytorch_model.bin"
    if not path.exists():
        raise UserError(f"{folder} has neither model.safetensors nor pytorch_model.bin in one file")
    try:
        tensors = unpack(path)
    except UserError:
        raise UserError(f"{path} holds anything but tensors, or is damaged") from None
    if not isinstance(tensors, dict) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise UserError(f"{path} holds anything but tensors by their names")
    return tensors


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, by name. Raises UserError where it is damaged."""
    try:
        content = bytearray(path.read_bytes())  # tensors that share it can be written to
        (length,) = struct.unpack_from("<Q", content)
        if length > LARGEST:
            raise ValueError("its header is too large")
        header = json.loads(content[8 : 8 + length])
        header.pop("__metadata__", None)
        data = memoryview(content)[8 + length :]
        return {name: _tensor(data, **entry) for name, entry in header.items()}
    except Exception as error:  # a file made to do harm may fail in any way
        raise UserError(f"{path} is damaged, or no safetensors file ({str(error)[:100]})") from None


def _tensor(data: memoryview, dtype: str, shape: list[int], data_offsets: list[int]) -> Tensor:
    begin, end = data_offsets
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype} is none of {', '.join(DTYPES)}")
    size = math.prod(shape) * DTYPES[dtype].itemsize
    if not 0 <= begin <= end <= len(data) or end - begin != size or min(shape, default=0) < 0:
        raise ValueError("a tensor lies outside of the file")
    if size == 0:
        return torch.empty(shape, dtype=DTYPES[dtype])
    return torch.frombuffer(data[begin:end], dtype=DTYPES[dtype]).reshape(shape)


def safetensors(tensors: dict[str, Tensor]) -> bytes:
    """The .safetensors file of float32 tensors; the same tensors give the same bytes."""
    header: dict = {"__metadata__": {"format": "pt"}}
    parts, end = [], 0
    for name, tensor in tensors.items():
        parts.append(tensor.detach().contiguous().numpy().astype("<f4").tobytes())
        begin, end = end, end + len(parts[-1])
        header[name] = dict(dtype="F32", shape=list(tensor.shape), data_offsets=[begin, end])
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors begin at a multiple of 8
    return struct.pack("<Q", len(text)) + text + b"".join(parts)
