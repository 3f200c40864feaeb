"""A checkpoint is one file, step-00000200.pt, a zip as torch.save writes it: the weights, the
optimizers' state, and plain values. A crash at any moment leaves the older ones whole, and none
that looks whole but is not.

1. Write beside, into a file that ends in .new, which nobody reads, and sync it. Its last bytes, the
   zip's comment, are the sha256 of all bytes before.
2. Rename, which happens wholly or not at all, and sync the folder, so that it lasts.
3. Only then rotate: delete older checkpoints, all but the newest two and the best.

A step is saved before it is evaluated, and again with its score. Loading passes over a file that is
damaged and says so. The scores that decide (which is best, when to stop early) are read from
checkpoints, never from metrics.jsonl."""

import contextlib
import hashlib
import io
import json
import mmap
from dataclasses import dataclass
from pathlib import Path

import torch

from minilm.config import NonFiniteError, UserError
from minilm.io.durable import damage, fits, read_json, sync, write_file
from minilm.io.terminal import note

COMMENT = 2 + 64  # bytes: the zip's own length of it, and a sha256 in hexadecimal
SPENT = {"tokens": int, "targets": int, "seconds": float}
FACTS = {"run": {str, None}, "step": int, "spent": SPENT, "scores": [(int, float)],
         "values": {str: float}}  # fmt: skip


@dataclass(frozen=True)
class Checkpoint:
    """What a file says, but for the states."""

    file: Path
    run: str | None  # the id of the run that wrote it
    step: int
    spent: dict  # tokens, targets and seconds of the run until here
    scores: list  # (step, score) of each evaluation until here; lower is better
    values: dict  # everything that the evaluation of this step measured

    @property
    def score(self) -> float | None:
        """Of this step; None: it was not evaluated."""
        return dict(self.scores).get(self.step)

    def read(self, name: str):
        """The state saved under a name, on the CPU; "model" is read as far as it is used. Raises
        UserError where it is not there, or holds a number that is not finite."""
        with damage(f"{self.file} is not what minilm saves: use another run"):
            state = _load(self.file, mmap=name == "model")[name]
            if not _is_finite(state):
                raise ValueError(f"{name} holds what is not finite")
        return state


def save(run: Path, step: int, spent: dict, scores=(), values=None, **states) -> None:
    """Write a checkpoint into a run folder: named states (nested dicts and lists of tensors and
    numbers), (step, score) of each evaluation so far, and what that of this step measured. Raises
    NonFiniteError where a tensor is not finite, UserError where the disk refuses; then nothing is
    written."""
    for name, state in states.items():
        if not _is_finite(state):
            raise NonFiniteError(f"{name} holds what is not finite, and is not saved")
    facts = dict(run=run_id(run), step=step, spent=spent, scores=scores, values=values or {})
    plain = json.dumps(facts, allow_nan=False, default=lambda number: number.item())  # NumPy's
    torch.save(json.loads(plain) | states, content := io.BytesIO())
    sha256 = hashlib.sha256(content.getbuffer()[:-2]).hexdigest()
    content.seek(-2, io.SEEK_END)  # a zip ends in the length of its comment, and that
    content.write(len(sha256).to_bytes(2, "little") + sha256.encode())
    for left_over in run.glob("step-*.new"):  # by a crash
        left_over.unlink(missing_ok=True)
    write_file(_file(run, step), content.getbuffer())
    sync(run)
    best = min(scores, key=_rank, default=(step, 0.0))[0]
    for older in _files(run)[:-2]:
        if older != _file(run, best):
            _delete(older)


def newest(run: Path, evaluated: bool = False) -> Checkpoint | None:
    """The newest whole checkpoint, to go on from (`evaluated`: with a score). Says which are
    damaged; raises UserError where one was written by another run."""
    found = map(_whole, reversed(_files(run)))
    return next((c for c in found if c and (c.score is not None or not evaluated)), None)


def best(run: Path) -> Checkpoint:
    """The whole checkpoint with the lowest score (without any score, the newest), to use. Raises
    UserError where there is none, or one was written by another run."""
    if not (last := newest(run)):
        raise UserError(f"{run} holds no whole checkpoint: train it first")
    ranked = (step for step, _ in sorted(last.scores, key=_rank))
    found = (last if step == last.step else _whole(_file(run, step)) for step in ranked)
    return next((c for c in found if c), last)


def delete_after(run: Path, step: int) -> None:
    """Delete the checkpoints after a step, damaged ones too (-1: all)."""
    for file in _files(run):
        if file.name > _file(run, step).name or step < 0:
            _delete(file)


def run_id(run: Path) -> str | None:
    """The id that config.json gives a run, which its checkpoints carry; None where it has none."""
    with contextlib.suppress(UserError):
        return read_json(run / "config.json", {"id": str})["id"]


def _whole(file: Path) -> Checkpoint | None:
    """A checkpoint whose every byte is as it was written, or None, and why. Raises UserError where
    another run has written it."""
    if not file.exists():
        return None
    try:
        if not file.is_file():
            raise ValueError("no regular file")
        with (open(file, "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as
              content, memoryview(content) as whole):  # fmt: skip
            sha256 = hashlib.sha256(whole[:-COMMENT]).hexdigest()
            if bytes(whole[-COMMENT:]) != len(sha256).to_bytes(2, "little") + sha256.encode():
                raise ValueError("its bytes are not those that were saved")
        state = _load(file, mmap=True)
        found = Checkpoint(file, **{name: state[name] for name in FACTS})
        if not fits(state, FACTS) or file.name != _file(file.parent, found.step).name:
            raise ValueError("it holds something else")
    except Exception as error:  # whatever is wrong with it
        note(f"{file} is damaged and not used: {type(error).__name__}: {error}")
        return None
    if found.run != run_id(file.parent):
        raise UserError(f"{file} was written by another run: move it out of {file.parent}")
    return found


def _load(file: Path, mmap: bool) -> dict:
    """Nothing but tensors and plain values."""
    return torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)


def _is_finite(state) -> bool:
    """Whether every tensor in nested dicts and lists is finite."""
    if isinstance(state, torch.Tensor):
        return bool(torch.isfinite(state).all())
    if isinstance(state, dict):
        state = list(state.values())
    return not isinstance(state, list | tuple) or all(map(_is_finite, state))


def _rank(evaluation: list) -> tuple:
    """Best first; of equal ones the later."""
    step, score = evaluation
    return score, -step


def _delete(file: Path) -> None:
    with contextlib.suppress(OSError):  # it is not there, or cannot be deleted: no harm done
        file.unlink()


def _files(run: Path) -> list[Path]:
    return sorted(run.glob("step-" + 8 * "[0-9]" + ".pt"))


def _file(run: Path, step: int) -> Path:
    return run / f"step-{step:08d}.pt"
