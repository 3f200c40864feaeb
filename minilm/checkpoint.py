"""A checkpoint is a folder, step-00000200/, and what is in it can be trusted.

It is written so that a crash at any moment leaves the older ones whole, and never leaves a new one
that looks whole but is not:

1. write beside: the files go to a folder that ends in .part, which nobody reads;
2. hash: each file's sha256 is that of the bytes in memory, so damage on the way to disk shows;
3. manifest last: a folder without manifest.json, which carries a hash of its own, is no checkpoint;
4. sync each file and the folder, so that a rename cannot reach the disk before what it names;
5. rename, which happens wholly or not at all, and sync the parent, so that it lasts;
6. only then rotate: delete older checkpoints, all but the newest two and the best.

Loading hashes every file again, passes over what is damaged and says so. How a file is written is
in `durable.py`, what may be in it in `tensor_file.py`.
"""

import contextlib
import hashlib
import math
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from minilm.config import UserError
from minilm.durable import seal, sync, unseal, write_file, writing
from minilm.tensor_file import pack, unpack


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose every file is as its manifest says."""

    folder: Path
    step: int
    score: float  # what validation said, lower is better; infinite where it was not asked
    spent: dict  # tokens, targets and seconds of the run until here

    def read(self, name: str):
        """The tensors saved under a name, on the CPU. Raises UserError where the file holds
        anything else."""
        return unpack(self.folder / f"{name}.pt")


def save(run: Path, step: int, spent: dict, **states) -> None:
    """Write a checkpoint into a run folder: named states (nested dicts and lists of tensors and
    numbers).

    Raises NonFiniteError where one of the tensors is not finite, UserError where the disk refuses;
    then nothing is written.
    """
    files = {f"{name}.pt": pack(state) for name, state in states.items()}
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    final = _folder(run, step)
    beside = final.with_suffix(".part")
    with writing(final, sum(map(len, files.values()))):
        for left_over in run.glob("step-*.*"):  # by a crash
            shutil.rmtree(left_over, ignore_errors=True)
        try:
            beside.mkdir()
            for name, content in files.items():
                write_file(beside / name, content)
            manifest = {"step": step, "score": None, "spent": spent, "files": hashes}
            write_file(beside / "manifest.json", seal(manifest))
            sync(beside)
            _delete(final)  # there is one only where it was damaged
            os.replace(beside, final)
        except (OSError, UserError):
            shutil.rmtree(beside, ignore_errors=True)  # a full disk needs the room
            raise
        sync(run)
    _rotate(run)


def rate(run: Path, step: int, score: float) -> None:
    """Note what validation said of a checkpoint, lower is better."""
    path = _folder(run, step) / "manifest.json"
    write_file(path, seal(unseal(path) | {"score": score}))
    sync(path.parent)


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


def _rotate(run: Path) -> None:
    found = checkpoints(run)
    keep = {checkpoint.folder for checkpoint in (*found[-2:], _best(found))}
    for checkpoint in found:
        if checkpoint.folder not in keep:
            _delete(checkpoint.folder)


def move(checkpoint: Checkpoint, run: Path) -> None:
    """Make a checkpoint one of another run."""
    with writing(run / checkpoint.folder.name):
        os.replace(checkpoint.folder, run / checkpoint.folder.name)
        sync(run)


def delete_all(run: Path) -> None:
    """Delete every checkpoint of a run, damaged ones too."""
    for folder in run.glob("step-*"):
        _delete(folder)


def _delete(folder: Path) -> None:
    """Delete a checkpoint, renamed first so that a crash leaves none that looks damaged."""
    old = folder.with_suffix(".old")
    with contextlib.suppress(OSError):  # it is not there, or cannot be deleted: no harm done
        os.replace(folder, old)
        shutil.rmtree(old)


def _verify(folder: Path) -> Checkpoint:
    """Read a manifest and hash every file that it names. Raises ValueError where one differs, and
    other errors where the manifest is none."""
    manifest = unseal(folder / "manifest.json")
    files = {path.name for path in folder.glob("*.pt") if path.is_file()}
    if files != set(manifest["files"]):
        raise ValueError("its files are not those that were saved")
    for name, expected in manifest["files"].items():
        with open(folder / name, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                raise ValueError(f"{name} is not what was saved")
    step, score = int(manifest["step"]), manifest["score"]
    if folder.name != f"step-{step:08d}":
        raise ValueError("it has the name of another")
    return Checkpoint(
        folder, step, math.inf if score is None else float(score), dict(manifest["spent"])
    )


def _folder(run: Path, step: int) -> Path:
    return run / f"step-{step:08d}"
