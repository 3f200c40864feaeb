"""A checkpoint is a folder, step-00000200/. A crash at any moment leaves the older ones whole, and
none that looks whole but is not.

1. Write beside, into a folder that ends in .part, which nobody reads, and sync each file.
2. Hash what is in memory, so that damage on the way to the disk shows; the manifest comes last.
3. Sync the folder: a rename must not reach the disk before what it names.
4. Rename, which happens wholly or not at all, and sync the parent, so that it lasts.
5. Only then rotate: delete older checkpoints, all but the newest two and the best.

Loading hashes the files, passes over a checkpoint that is damaged and says so. The scores that
decide (which is best, when to stop early) are read from manifests, never from metrics.jsonl."""

import contextlib
import hashlib
import io
import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from minilm.config import NonFiniteError, UserError
from minilm.io.durable import read_bounded, sha256_of, sync, write_file, writing


@dataclass(frozen=True)
class Checkpoint:
    """What a manifest says."""

    folder: Path
    run: str | None  # the id of the run that wrote it
    step: int
    score: float | None  # of its evaluation, lower is better; None: not evaluated
    values: dict  # everything that its evaluation measured
    spent: dict  # tokens, targets and seconds of the run until here
    earlier: list  # [step, score] of each evaluation before
    files: dict  # name -> sha256

    @property
    def scores(self) -> list:
        """[step, score] of each evaluation of the run until here."""
        return self.earlier + [[self.step, self.score]] * (self.score is not None)

    def read(self, name: str):
        """The state saved under a name, on the CPU: nothing but tensors and plain values. Raises
        UserError where the file holds anything else, or a number that is not finite."""
        path = self.folder / f"{name}.pt"
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever is wrong with it
            kind = type(error).__name__
            raise UserError(f"{path} is not what minilm saves ({kind}): use another run") from None
        if not _is_finite(state):
            raise UserError(f"{path} holds what is not finite: use another run")
        return state


def save(run: Path, step: int, spent: dict, scores: list | None = None, **states) -> None:
    """Write a checkpoint into a run folder: named states (nested dicts and lists of tensors and
    numbers), and [step, score] of each evaluation so far. Raises NonFiniteError where a tensor is
    not finite, UserError where the disk refuses; then nothing is written."""
    contents, files = {}, {}
    for name, state in states.items():
        if not _is_finite(state):
            raise NonFiniteError(f"{name}.pt would hold what is not finite, and is not saved")
        torch.save(state, buffer := io.BytesIO())
        contents[f"{name}.pt"] = buffer.getbuffer()
        files[f"{name}.pt"] = hashlib.sha256(buffer.getbuffer()).hexdigest()
    facts = dict(run=run_id(run), step=step, score=None, values={}, spent=spent)
    contents["manifest.json"] = _seal(facts | dict(earlier=scores or [], files=files))
    final = _folder(run, step)
    beside = final.with_suffix(".part")
    with writing(final):
        for left_over in run.glob("step-*.*"):  # by a crash
            shutil.rmtree(left_over, ignore_errors=True)
        try:
            beside.mkdir()
            for name, content in contents.items():
                write_file(beside / name, content)
            sync(beside)
            _delete(final)  # there is one only where it was damaged
            os.replace(beside, final)
        except (OSError, UserError):
            shutil.rmtree(beside, ignore_errors=True)  # a full disk needs the room
            raise
        sync(run)
    found = _manifests(run)
    for old in found[:-2]:  # by their manifests: to hash gigabytes at every save would take long
        if old is not min(found, key=_rank):
            _delete(old.folder)


def rate(run: Path, step: int, score: float, values: dict) -> None:
    """Note in a checkpoint what its evaluation said; a lower score is better."""
    folder = _folder(run, step)
    write_file(folder / "manifest.json", _seal(_unseal(folder) | dict(score=score, values=values)))
    sync(folder)


def newest(run: Path, evaluated: bool = False) -> Checkpoint | None:
    """The newest whole checkpoint, to go on from (`evaluated`: with a score). Says which are
    damaged; raises UserError where one was written by another run."""
    found = _whole(run, lambda c: -c.step)
    return next((c for c in found if c.score is not None or not evaluated), None)


def best(run: Path) -> Checkpoint:
    """The whole checkpoint with the lowest score (without any score, the newest), to use. Raises
    UserError where there is none, or one was written by another run."""
    if found := next(_whole(run, _rank), None):
        return found
    raise UserError(f"{run} holds no whole checkpoint: train it first")


def delete_after(run: Path, step: int) -> None:
    """Delete the checkpoints after a step, damaged ones too (-1: all)."""
    for folder in run.glob("step-*"):
        if folder > _folder(run, step):
            _delete(folder)


def run_id(run: Path) -> str | None:
    """The id that config.json gives a run, which its checkpoints carry; None where it has none."""
    with contextlib.suppress(OSError, UserError, ValueError, LookupError, TypeError):
        return json.loads(read_bounded(run / "config.json"))["id"]


def _is_finite(state) -> bool:
    """Whether every tensor in nested dicts and lists is finite."""
    if isinstance(state, torch.Tensor):
        return bool(torch.isfinite(state).all())
    if isinstance(state, dict):
        state = list(state.values())
    return not isinstance(state, list | tuple) or all(map(_is_finite, state))


def _manifests(run: Path, say=lambda *_, **__: None) -> list[Checkpoint]:
    """The checkpoints whose manifest is as it was written, oldest first."""
    found = []
    for folder in sorted(run.glob("step-" + 8 * "[0-9]")):
        try:
            facts = _unseal(folder)
            if folder != _folder(run, facts["step"]):
                raise ValueError("it has the name of another")
            found.append(Checkpoint(folder, **facts))
        except Exception as error:  # whatever is wrong with it
            say(f"{folder} is damaged and not used: {error}", file=sys.stderr)
    return found


def _whole(run: Path, rank) -> Iterator[Checkpoint]:
    """The checkpoints whose every file is as it was written, by rank, hashed when asked for."""
    found, own = _manifests(run, print), run_id(run)
    if foreign := next((c.folder for c in found if c.run != own), None):
        raise UserError(f"{foreign} was written by another run: move it out of {run}")
    for c in sorted(found, key=rank):
        if all(sha256_of(c.folder / name) == sha256 for name, sha256 in c.files.items()):
            yield c
        else:
            print(f"{c.folder} is damaged and not used", file=sys.stderr)


def _rank(checkpoint: Checkpoint) -> tuple:
    """Best first; of equal ones the later; those that were not evaluated last."""
    return checkpoint.score is None, checkpoint.score or 0.0, -checkpoint.step


def _delete(folder: Path) -> None:
    """Delete a checkpoint, renamed first so that a crash leaves none that looks damaged."""
    old = folder.with_suffix(".old")
    with contextlib.suppress(OSError):  # it is not there, or cannot be deleted: no harm done
        os.replace(folder, old)
        shutil.rmtree(old)


def _seal(facts: dict) -> bytes:
    """A manifest, with the sha256 of what it says."""
    sha256 = hashlib.sha256(json.dumps(facts, allow_nan=False).encode()).hexdigest()
    return json.dumps({**facts, "sha256": sha256}, indent=2).encode()


def _unseal(folder: Path) -> dict:
    """Read a manifest. Raises ValueError, or another error, where it is not as it was written."""
    content = read_bounded(folder / "manifest.json")
    facts = {name: value for name, value in json.loads(content).items() if name != "sha256"}
    if _seal(facts) != content:
        raise ValueError("manifest.json is not what was saved")
    return facts


def _folder(run: Path, step: int) -> Path:
    return run / f"step-{step:08d}"
