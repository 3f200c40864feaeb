"""A checkpoint is a folder, step-00000200/, and what is in it can be trusted.

It is written so that a crash at any moment leaves the older ones whole, and never leaves a new one
that looks whole but is not:

1. write beside: the files go to a folder that ends in .part, which nobody reads;
2. hash: each file's sha256 is that of the bytes in memory, so damage on the way to disk shows;
3. manifest last: a folder without manifest.json is not a checkpoint;
4. sync each file and the folder, so that a rename cannot reach the disk before what it names;
5. rename, which happens wholly or not at all, and sync the parent, so that it lasts;
6. only then delete older checkpoints, all but the newest two and the best.

Loading hashes every file again, passes over what is damaged and says so, and reads nothing but
tensors and JSON.
"""

import hashlib
import io
import json
import math
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from minilm.config import NonFiniteError, UserError


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose every file is as its manifest says."""

    folder: Path
    step: int
    score: float  # what validation said, lower is better; infinite where it was not asked
    spent: dict  # tokens, targets and seconds of the run until here

    def read(self, name: str):
        """The tensors saved under a name, on the CPU. Raises UserError where the file holds
        anything else, which is not run."""
        path = self.folder / f"{name}.pt"
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # a file made to do harm may fail in any way
            kind = type(error).__name__
            raise UserError(f"{path} is not what minilm saves ({kind}): use another run") from None


def save(run: Path, step: int, score: float, spent: dict, **states) -> None:
    """Write a checkpoint into a run folder: named states (nested dicts and lists of tensors and
    numbers).

    Raises NonFiniteError, and writes nothing, where the model's weights are not finite.
    """
    for name, tensor in states["model"].items():
        if not torch.isfinite(tensor).all():
            raise NonFiniteError(f"step {step}: {name} is not finite, so it is not saved")
    final = run / f"step-{step:08d}"
    beside = final.with_suffix(".part")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    hashes = {}
    for name, state in states.items():
        buffer = io.BytesIO()
        torch.save(state, buffer)
        hashes[f"{name}.pt"] = hashlib.sha256(buffer.getbuffer()).hexdigest()
        write_file(beside / f"{name}.pt", buffer.getbuffer())
    manifest = {"step": step, "score": score, "spent": spent, "sha256": hashes}
    write_file(beside / "manifest.json", json.dumps(manifest, indent=2).encode())
    _sync_folder(beside)
    shutil.rmtree(final, ignore_errors=True)
    os.replace(beside, final)
    _sync_folder(run)
    _delete_old(run)


def checkpoints(run: Path) -> list[Checkpoint]:
    """The whole checkpoints of a run, oldest first. Says which are damaged."""
    found = []
    for folder in sorted(run.glob("step-*")):
        if re.fullmatch(r"step-\d{8}", folder.name):
            try:
                found.append(_verify(folder))
            except Exception as error:  # whatever is wrong with it
                print(f"{folder} is damaged and not used: {error}", file=sys.stderr)
    return found


def newest(run: Path) -> Checkpoint | None:
    """The newest whole checkpoint, to go on from."""
    return max(checkpoints(run), key=lambda checkpoint: checkpoint.step, default=None)


def best(run: Path) -> Checkpoint:
    """The whole checkpoint that validation liked best, to use. Raises UserError where there is
    none."""
    found = checkpoints(run)
    if not found:
        raise UserError(f"{run} holds no whole checkpoint: train it first")
    return _best(found)


def _best(found: list[Checkpoint]) -> Checkpoint:
    return max(found, key=lambda checkpoint: (-checkpoint.score, checkpoint.step))


def _delete_old(run: Path) -> None:
    found = checkpoints(run)
    keep = {checkpoint.folder for checkpoint in (*found[-2:], _best(found))}
    for checkpoint in found:
        if checkpoint.folder not in keep:
            shutil.rmtree(checkpoint.folder, ignore_errors=True)


def _verify(folder: Path) -> Checkpoint:
    """Read a manifest and hash every file that it names. Raises ValueError where one differs, and
    other errors where the manifest is none."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    if {path.name for path in folder.glob("*.pt")} != set(manifest["sha256"]):
        raise ValueError("its files are not those that were saved")
    for name, expected in manifest["sha256"].items():
        with open(folder / name, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                raise ValueError(f"{name} is not what was saved")
    step, score = int(manifest["step"]), float(manifest["score"])
    if folder.name != f"step-{step:08d}" or math.isnan(score):
        raise ValueError("manifest.json is not what was saved")
    return Checkpoint(folder, step, score, dict(manifest["spent"]))


def write_file(path: Path, content) -> None:
    """Write a file and wait until the disk has it; the old content stays until then."""
    beside = path.with_name(path.name + ".new")
    with open(beside, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def _sync_folder(folder: Path) -> None:
    """Wait until the disk knows the names in a folder (Windows does this by itself)."""
    if os.name != "nt":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
