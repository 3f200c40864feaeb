"""Checkpoints: whatever happens while one is written, an older one stays whole, and what is damaged
is never used in silence."""

import errno
import io
import itertools
import json
import math
import os
import shutil

import numpy as np
import pytest
import torch

from minilm.config import NonFiniteError, UserError
from minilm.io import durable
from minilm.runs import checkpoint

SPENT = dict(tokens=5, targets=3, seconds=0.5)


def states(step):
    weights = torch.randn(40, 3, generator=torch.Generator().manual_seed(step))
    return dict(model={"w": weights, "b": weights.bfloat16()}, optimizers=[{"step": step}])


def save(run, *steps):
    for step in steps:
        checkpoint.save(run, step, SPENT, **states(step))


def steps_in(run):
    """Of the whole checkpoints; each must hold what was saved."""
    found = [c for c in map(checkpoint._whole, checkpoint._files(run)) if c]
    for one in found:
        read, saved = one.read("model"), states(one.step)
        assert all(torch.equal(t, read[name]) for name, t in saved["model"].items())
        assert one.read("optimizers") == saved["optimizers"]
    return [c.step for c in found]


def test_what_is_read_is_what_was_saved_and_numbers_of_numpy_are_numbers(tmp_path):
    checkpoint.save(tmp_path, 7, SPENT, [[3, 2.0]], **states(7))
    found = checkpoint.newest(tmp_path)
    assert (found.scores, found.score, found.values, found.spent) == ([[3, 2.0]], None, {}, SPENT)
    assert checkpoint.newest(tmp_path, evaluated=True) is None
    scores, values = [(3, 2.0), (np.int64(7), np.float32(1))], {"loss": np.float64(0.1)}
    spent = SPENT | dict(tokens=np.int64(5), seconds=np.float32(0.5))
    checkpoint.save(tmp_path, 7, spent, scores, values, **states(7))
    found = checkpoint.newest(tmp_path, evaluated=True)
    assert (found.scores, found.values, found.spent) == ([[3, 2.0], [7, 1.0]], {"loss": 0.1}, SPENT)
    assert os.listdir(tmp_path) == ["step-00000007.pt"] and steps_in(tmp_path) == [7]
    assert torch.load(found.file, weights_only=True).keys() >= {"model", "optimizers"}


def test_the_newest_two_and_the_best_are_kept_and_the_later_of_equals_is_best(tmp_path):
    scores = []
    for step, score in enumerate((3.0, 1.0, 1.0, 2.0, None, 2.5, None), 1):
        scores += [(step, score)] * (score is not None)
        checkpoint.save(tmp_path, step, SPENT, scores, **states(step))
    assert steps_in(tmp_path) == [3, 6, 7] and len(os.listdir(tmp_path)) == 3
    assert checkpoint.newest(tmp_path).step == 7 and checkpoint.best(tmp_path).step == 3
    assert checkpoint.newest(tmp_path, evaluated=True).step == 6
    for damaged, used in ((3, 6), (6, 7)):
        checkpoint._file(tmp_path, damaged).write_bytes(b"")
        assert checkpoint.best(tmp_path).step == used


def test_a_checkpoint_of_another_run_is_refused_and_those_after_a_step_can_be_deleted(tmp_path):
    trial, run = tmp_path / "trial", tmp_path / "run"
    for folder in (trial, run):
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"id": folder.name}))
    save(trial, 1, 2, 3)
    shutil.copy(trial / "step-00000002.pt", run)
    for used in (checkpoint.newest, checkpoint.best):
        with pytest.raises(UserError, match=r"step-00000002\.pt was written by another run"):
            used(run)
    checkpoint.delete_after(trial, 2)
    assert steps_in(trial) == [2]
    checkpoint.delete_after(trial, -1)
    assert os.listdir(trial) == ["config.json"] and checkpoint.newest(trial) is None
    with pytest.raises(UserError, match="no whole checkpoint"):
        checkpoint.best(trial)


# Damage


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_numbers_that_are_not_finite_are_neither_saved_nor_loaded(tmp_path, value, monkeypatch):
    broken = states(2)
    broken["model"]["b"][5, 1] = value
    optimizers = [{"state": (broken["model"]["b"],)}]
    for name, what in (("model", broken), ("optimizers", dict(optimizers=optimizers))):
        with pytest.raises(NonFiniteError, match=f"{name} holds what is not finite"):
            checkpoint.save(tmp_path, 2, SPENT, **what)
    assert os.listdir(tmp_path) == []
    with monkeypatch.context() as patch:  # a stranger's
        patch.setattr(checkpoint, "_is_finite", lambda state: True)
        checkpoint.save(tmp_path, 2, SPENT, **broken)
    with pytest.raises(UserError, match="model holds what is not finite"):
        checkpoint.newest(tmp_path).read("model")


def test_of_a_file_damaged_anywhere_the_older_one_is_used(tmp_path, capsys):
    save(tmp_path, 1, 2)
    path = tmp_path / "step-00000002.pt"
    whole, other = path.read_bytes(), (tmp_path / "step-00000001.pt").read_bytes()
    flips = [whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :] for i in range(0, len(whole), 59)]
    zeros = whole[:99] + bytes(len(whole) - 99)  # pages that never reached the disk
    for changed in (b"", whole[:-1], whole + b" ", zeros, other, *flips):
        path.write_bytes(changed)
        assert checkpoint.newest(tmp_path).step == 1
        assert f"{path} is damaged and not used" in capsys.readouterr().err
    if os.name != "nt":
        path.unlink()
        os.mkfifo(path)  # which has no end
        assert checkpoint.newest(tmp_path).step == 1
    path.unlink()
    path.write_bytes(whole)
    assert steps_in(tmp_path) == [1, 2] and checkpoint.best(tmp_path).step == 2


class Bomb:
    """What a hostile file would hold: reading it as Python objects runs a command."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def test_what_a_stranger_has_sealed_runs_nothing_and_is_not_believed(tmp_path, capsys):
    save(tmp_path, 1)
    hostile = dict(model=Bomb(tmp_path / "exploded"))
    for changes in (hostile, dict(scores=[[2, "low"]]), dict(step=3), dict(spent=[])):
        facts = dict(step=2, spent=SPENT, **states(2)) | changes
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(checkpoint, "_file", lambda run, step: run / "step-00000002.pt")
            patch.setattr(checkpoint, "_rank", lambda evaluation: 0)
            checkpoint.save(tmp_path, **facts)
        assert checkpoint.newest(tmp_path).step == 1
        assert "step-00000002.pt is damaged" in capsys.readouterr().err
    assert not (tmp_path / "exploded").exists()
    with pytest.raises(UserError, match="is not what minilm saves"):
        checkpoint.newest(tmp_path).read("nothing")


class Crash(BaseException):
    """The process ends here: nothing catches it."""


def breaking_disk(patch, fail_at, failure):
    """One of the operations on files fails, a write in its middle. Returns a list of them all."""
    done = []

    def watched(name, function, before=lambda *_: None):
        def call(*arguments):
            done.append(name)
            if len(done) == fail_at + 1:
                before(*arguments)
                raise failure
            return function(*arguments)

        return call

    class File(io.FileIO):
        half = lambda self, content: io.FileIO.write(self, content[: len(content) // 2])
        write = watched("write", io.FileIO.write, half)

    patch.setattr(durable, "open", File, raising=False)
    for name in ("replace", "fsync", "open", "unlink"):
        patch.setattr(os, name, watched(name, getattr(os, name)))
    return done


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("failure", [Crash(), FULL])
def test_whatever_breaks_a_save_off_leaves_a_whole_checkpoint_and_a_run_that_goes_on(
    tmp_path, monkeypatch, failure, capsys
):
    for fail_at in itertools.count():  # each operation in turn
        run, outcome = tmp_path / str(fail_at), None
        run.mkdir()
        save(run, 1, 2, 3)
        with monkeypatch.context() as patch:
            done = breaking_disk(patch, fail_at, failure)
            try:
                save(run, 4)
            except (Crash, UserError) as error:
                outcome = error
        if len(done) <= fail_at:
            break
        renamed = "replace" in done[:fail_at]
        assert steps_in(run)[-1] == (4 if renamed else 3)
        if isinstance(outcome, UserError):
            assert str(run) in str(outcome) and str(FULL.strerror) in str(outcome)
            assert renamed or not list(run.glob("*.new"))  # a full disk needs the room
        elif outcome is None:  # what the disk refused was only to delete
            assert done[-1] == "unlink"
        save(run, 5)
        assert steps_in(run) == [4 if renamed else 3, 5] and len(os.listdir(run)) == 2
    in_folder = ["open", "fsync"] if os.name != "nt" else []
    assert done == ["write", "fsync", "replace", *in_folder, "unlink"]
    assert not capsys.readouterr().err  # what a crash leaves is no damage


@pytest.mark.parametrize("fail_at", range(3))  # writing, syncing, renaming
def test_a_file_that_cannot_be_replaced_stays_as_it_was(tmp_path, monkeypatch, fail_at):
    durable.write_file(path := tmp_path / "file", b"old")
    with monkeypatch.context() as patch, pytest.raises(UserError, match="cannot be written"):
        breaking_disk(patch, fail_at, FULL)
        durable.write_file(path, b"new")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]
