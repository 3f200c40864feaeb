"""A checkpoint is a folder, step-00000200/, and what is in it can be trusted.

It is written so that a crash at any moment leaves the older ones whole, and never leaves a new one
that looks whole but is not:

1. write beside: the files go to a folder that ends in .part, which nobody reads;
2. hash: each file's sha256 is that of the bytes in memory, so damage on the way to disk shows;
3. manifest last: a folder without manifest.json, which carries a hash of its own, is no checkpoint;
4. sync each file and the folder, so that a rename cannot reach the disk before what it names;
5. rename, which happens wholly or not at all, and sync the parent, so that it lasts;
6. only then rotate: delete older checkpoints, all but the newest two and the best.

Loading hashes the files, passes over a checkpoint that is damaged and says so. The scores that
decide (which is best, when to stop early) are read from manifests, never from metrics.jsonl.
"""

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from minilm.config import NonFiniteError, UserError
from minilm.runs.bounded import read_bounded
from minilm.runs.durable import sync, write_file, writing

LARGEST = 2**24  # bytes of a manifest or a config.json, a fraction of a second to read


@dataclass(frozen=True)
class Checkpoint:
    """What the manifest of a checkpoint says."""

    folder: Path
    step: int
    score: float | None  # of its evaluation, lower is better; None: not evaluated yet
    values: dict  # everything that its evaluation measured
    spent: dict  # tokens, targets and seconds of the run until here
    earlier: list  # [step, score] of each evaluation before
    files: dict  # name -> [bytes, sha256]

    @property
    def scores(self) -> list:
        """[step, score] of each evaluation of the run until here."""
        return self.earlier + [[self.step, self.score]] * (self.score is not None)

    def read(self, name: str):
        """The state saved under a name, on the CPU: nothing but tensors and plain values is read.
        Raises UserError where the file holds anything else."""
        path = self.folder / f"{name}.pt"
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever is wrong with it
            kind = type(error).__name__
            raise UserError(f"{path} is not what minilm saves ({kind}): use another run") from None


def save(run: Path, step: int, spent: dict, scores: list | None = None, **states) -> None:
    """Write a checkpoint into a run folder: named states (nested dicts and lists of tensors and
    numbers); `scores`: [step, score] of each evaluation so far.

    Raises NonFiniteError where one of the tensors is not finite, UserError where the disk refuses;
    then nothing is written.
    """
    contents = {f"{name}.pt": _pack(state) for name, state in states.items()}
    files = {name: [len(c), hashlib.sha256(c).hexdigest()] for name, c in contents.items()}
    facts = dict(run=run_id(run), step=step, score=None, values={}, spent=spent,
                 earlier=scores or [], files=files)  # fmt: skip
    final = _folder(run, step)
    beside = final.with_suffix(".part")
    with writing(final, sum(map(len, contents.values()))):
        for left_over in run.glob("step-*.*"):  # by a crash
            shutil.rmtree(left_over, ignore_errors=True)
        try:
            beside.mkdir()
            for name, content in contents.items():
                write_file(beside / name, content)
            write_file(beside / "manifest.json", _seal(facts))
            sync(beside)
            _delete(final)  # there is one only where it was damaged
            os.replace(beside, final)
        except (OSError, UserError):
            shutil.rmtree(beside, ignore_errors=True)  # a full disk needs the room
            raise
        sync(run)
    found = list(_manifests(run))
    for old in found[:-2]:
        if old is not _ranked(found)[0]:
            _delete(old.folder)


def rate(run: Path, step: int, score: float, values: dict | None = None) -> None:
    """Note in a checkpoint what its evaluation said; a lower score is better."""
    path = _folder(run, step) / "manifest.json"
    write_file(path, _seal(_unseal(path) | dict(score=score, values=values or {})))
    sync(path.parent)


def newest(run: Path) -> Checkpoint | None:
    """The newest whole checkpoint, to go on from. Says which are damaged; raises UserError where
    one was written by another run."""
    return next(_whole(reversed(list(_manifests(run, sys.stderr)))), None)


def good(run: Path) -> Checkpoint | None:
    """The newest whole checkpoint that was evaluated, which only a finite one is."""
    return next((c for c in _whole(reversed(list(_manifests(run)))) if c.score is not None), None)


def best(run: Path) -> Checkpoint:
    """The whole checkpoint with the lowest score, to use (without any score, the newest). Raises
    UserError where there is none, or one was written by another run."""
    for checkpoint in _whole(_ranked(list(_manifests(run, sys.stderr)))):
        return checkpoint
    raise UserError(f"{run} holds no whole checkpoint: train it first")


def delete_after(run: Path, step: int) -> None:
    """Delete the checkpoints after a step, damaged ones too (-1: all)."""
    for folder in run.glob("step-*"):
        if folder > _folder(run, step):
            _delete(folder)


def move(checkpoint: Checkpoint, run: Path) -> None:
    """Make a checkpoint one of another run."""
    path = checkpoint.folder / "manifest.json"
    write_file(path, _seal(_unseal(path) | dict(run=run_id(run))))
    with writing(run / checkpoint.folder.name):
        os.replace(checkpoint.folder, run / checkpoint.folder.name)
        sync(run)


def run_id(run: Path) -> str | None:
    """The id that config.json gives a run, which its checkpoints carry; None where it has none."""
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError, RecursionError):
        return json.loads(read_bounded(run / "config.json", LARGEST))["id"]


def _pack(state) -> memoryview:
    """The file for a state. Raises NonFiniteError where a tensor of it is not finite."""
    for name, tensor in tensors(state):
        if not torch.isfinite(tensor).all():
            raise NonFiniteError(f"{name} is not finite, so it is not saved")
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getbuffer()


def tensors(state, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor in nested dicts and lists, with its name."""
    if isinstance(state, torch.Tensor):
        yield name, state
    elif isinstance(state, dict | list | tuple):
        for key, part in state.items() if isinstance(state, dict) else enumerate(state):
            yield from tensors(part, f"{name}.{key}" if name else str(key))


def _manifests(run: Path, say=None) -> Iterator[Checkpoint]:
    """The checkpoints whose manifest and files' sizes are as they were written, oldest first."""
    for folder in sorted(run.glob("step-*")):
        if not re.fullmatch(r"step-\d{8}", folder.name):
            continue
        try:
            facts = _unseal(folder / "manifest.json")
            if facts.pop("run") != run_id(run):
                raise UserError(f"{folder} was written by another run: move it out of {run}")
            checkpoint = Checkpoint(folder, **facts)
            if folder != _folder(run, checkpoint.step):
                raise ValueError("it has the name of another")
            for name, (size, _) in checkpoint.files.items():
                path = folder / name
                if not path.is_file() or path.stat().st_size != size:
                    raise ValueError(f"{name} is not what was saved")
            yield checkpoint
        except UserError as error:
            if say and "another run" in str(error):
                raise
            _say_damaged(folder, error, say)
        except Exception as error:  # whatever is wrong with it
            _say_damaged(folder, error, say)


def _whole(found) -> Iterator[Checkpoint]:
    """Those of them whose every file has the sha256 that its manifest says."""
    for checkpoint in found:
        for name, (_, sha256) in checkpoint.files.items():
            with open(checkpoint.folder / name, "rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                    _say_damaged(checkpoint.folder, f"{name} is not what was saved", sys.stderr)
                    break
        else:
            yield checkpoint


def _say_damaged(folder: Path, why, file) -> None:
    if file:
        print(f"{folder} is damaged and not used: {why}", file=file)


def _ranked(found: list[Checkpoint]) -> list[Checkpoint]:
    """Best first; of equal ones the later; those that were not evaluated last."""
    return sorted(found, key=lambda c: (c.score is None, c.score or 0.0, -c.step))


def _delete(folder: Path) -> None:
    """Delete a checkpoint, renamed first so that a crash leaves none that looks damaged."""
    old = folder.with_suffix(".old")
    with contextlib.suppress(OSError):  # it is not there, or cannot be deleted: no harm done
        os.replace(folder, old)
        shutil.rmtree(old)


def _seal(facts: dict) -> bytes:
    """A manifest, with the sha256 of what it says."""
    return json.dumps({**facts, "sha256": _digest(facts)}, indent=2, allow_nan=False).encode()


def _unseal(path: Path) -> dict:
    """Read a manifest. Raises ValueError and others where it says not what was written."""
    facts = json.loads(read_bounded(path, LARGEST))
    if facts.pop("sha256") != _digest(facts):
        raise ValueError("manifest.json is not what was saved")
    return facts


def _digest(facts: dict) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _folder(run: Path, step: int) -> Path:
    return run / f"step-{step:08d}"
