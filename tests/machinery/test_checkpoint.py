"""Checkpoints: whatever happens while one is written, an older one stays whole, and what is damaged
is never used in silence."""

import errno
import hashlib
import io
import itertools
import json
import math
import os
import shutil
from pathlib import Path

import pytest
import torch

from minilm.config import NonFiniteError, UserError
from minilm.io import durable
from minilm.runs import checkpoint

SPENT = dict(tokens=5, targets=3, seconds=0.5)


def states(step):
    weights = torch.randn(40, 3, generator=torch.Generator().manual_seed(step))
    return dict(model={"w": weights, "b": weights.bfloat16()}, optimizers=[{"step": step}])


def save(run, *steps, score=1.0):
    for step in steps:
        checkpoint.save(run, step, SPENT, **states(step))
        if score is not None:
            checkpoint.rate(run, step, score, {"loss": score})


def holds_what_was_saved(found):
    read, saved = found.read("model"), states(found.step)
    assert all(torch.equal(t, read[name]) for name, t in saved["model"].items())
    return found.read("optimizers") == saved["optimizers"]


def steps_in(run):
    """Of the whole checkpoints; each must hold what was saved."""
    found = list(checkpoint._whole(run, lambda c: c.step))
    assert all(map(holds_what_was_saved, found))
    return [c.step for c in found]


def everything(run):
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_what_is_read_is_what_was_saved(tmp_path):
    checkpoint.save(tmp_path, 7, SPENT, [[3, 2.0]], **states(7))
    assert checkpoint.newest(tmp_path).scores == [[3, 2.0]]
    assert checkpoint.newest(tmp_path, evaluated=True) is None
    checkpoint.rate(tmp_path, 7, 1.0, {"loss": 1.0})
    found = checkpoint.newest(tmp_path)
    assert holds_what_was_saved(found) and found.scores == [[3, 2.0], [7, 1.0]]
    assert (found.score, found.values, found.spent) == (1.0, {"loss": 1.0}, SPENT)


def test_the_newest_two_and_the_best_are_kept_and_the_later_of_equals_is_best(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(checkpoint, "sha256_of", lambda path: pytest.fail("gigabytes hashed"))
    for step, score in enumerate((3.0, 1.0, 1.0, 2.0, None, 2.5, None), 1):
        save(tmp_path, step, score=score)
    monkeypatch.undo()
    assert steps_in(tmp_path) == [3, 6, 7] == [int(p.name[5:]) for p in sorted(tmp_path.iterdir())]
    assert checkpoint.newest(tmp_path).step == 7 and checkpoint.best(tmp_path).step == 3
    assert checkpoint.newest(tmp_path, evaluated=True).step == 6


def test_a_checkpoint_of_another_run_is_refused_and_those_after_a_step_can_be_deleted(tmp_path):
    trial, run = tmp_path / "trial", tmp_path / "run"
    for i, folder in enumerate((trial, run)):
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"id": str(i)}))
    save(trial, 1, score=0.5)
    save(trial, 2, 3)
    shutil.copytree(trial / "step-00000001", run / "step-00000001")
    for used in (checkpoint.newest, checkpoint.best):
        with pytest.raises(UserError, match="step-00000001 was written by another run"):
            used(run)
    (trial / "step-00000003" / "model.pt").write_bytes(b"")
    checkpoint.delete_after(trial, 2)
    assert steps_in(trial) == [1, 2]
    checkpoint.delete_after(trial, -1)
    assert [path.name for path in trial.iterdir()] == ["config.json"]


# Damage


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_numbers_that_are_not_finite_are_neither_saved_nor_loaded(tmp_path, value, monkeypatch):
    save(tmp_path, 1)
    before, broken = everything(tmp_path), states(2)
    broken["optimizers"] = [{"state": (broken["model"]["b"],)}]
    broken["model"]["b"][5, 1] = value
    with pytest.raises(NonFiniteError, match=r"model\.pt would hold what is not finite"):
        checkpoint.save(tmp_path, 2, SPENT, **broken)
    with pytest.raises(NonFiniteError, match=r"optimizers\.pt would hold what is not finite"):
        checkpoint.save(tmp_path, 2, SPENT, optimizers=broken["optimizers"])
    assert everything(tmp_path) == before
    with monkeypatch.context() as patch:  # a stranger's
        patch.setattr(checkpoint, "_is_finite", lambda state: True)
        checkpoint.save(tmp_path, 2, SPENT, **broken)
    with pytest.raises(UserError, match=r"model\.pt holds what is not finite"):
        checkpoint.newest(tmp_path).read("model")


@pytest.mark.parametrize("name", ["model.pt", "optimizers.pt", "manifest.json"])
def test_of_a_checkpoint_damaged_anywhere_the_older_one_is_used(tmp_path, name, capsys):
    save(tmp_path, 1, 2, score=0.5)
    path = tmp_path / "step-00000002" / name
    whole, others = path.read_bytes(), [p.read_bytes() for p in tmp_path.rglob("*.*") if p != path]
    flips = [whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :] for i in range(0, len(whole), 50)]
    zeros = whole[:99] + bytes(len(whole) - 99)  # pages that never reached the disk
    for changed in (None, b"", whole[:-1], whole + b" ", zeros, *others, *flips):
        path.unlink() if changed is None else path.write_bytes(changed)
        found = checkpoint.newest(tmp_path), checkpoint.best(tmp_path)
        assert [c.step for c in found] == [1, 1] and all(map(holds_what_was_saved, found))
        assert f"{path.parent} is damaged and not used" in capsys.readouterr().err
    path.write_bytes(whole)
    assert checkpoint.newest(tmp_path).step == 2


@pytest.mark.parametrize("name", ["model.pt", "manifest.json"])
@pytest.mark.skipif(os.name == "nt", reason="Windows has no such pipes")
def test_a_pipe_or_a_file_without_end_is_not_read(tmp_path, name):
    save(tmp_path, 1, 2)
    path = tmp_path / "step-00000002" / name
    for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero")):
        path.unlink()
        make(path)
        assert checkpoint.newest(tmp_path).step == 1


class Bomb:
    """What a hostile file would hold: reading it as Python objects runs a command."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def test_a_hostile_checkpoint_whose_hashes_fit_runs_nothing(tmp_path):
    save(tmp_path, 1)
    folder, exploded = tmp_path / "step-00000001", tmp_path / "exploded"
    torch.save({"w": Bomb(exploded)}, folder / "model.pt")
    facts = checkpoint._unseal(folder)
    facts["files"]["model.pt"] = hashlib.sha256((folder / "model.pt").read_bytes()).hexdigest()
    (folder / "manifest.json").write_bytes(checkpoint._seal(facts))
    with pytest.raises(UserError, match=r"model\.pt is not what minilm saves"):
        checkpoint.best(tmp_path).read("model")
    assert not exploded.exists()


def test_without_a_whole_checkpoint_there_is_nothing_to_use(tmp_path):
    assert checkpoint.newest(tmp_path) is None
    with pytest.raises(UserError, match="no whole checkpoint"):
        checkpoint.best(tmp_path)


# A save that is broken off: every file operation fails in turn


class Crash(BaseException):
    """The process ends here: nothing catches it."""


class Disk:
    """Notes every file operation, and raises `failure` instead of one of them. Of a write, `share`
    of the bytes is written first."""

    def __init__(self, monkeypatch, fail_at=None, failure=None, share=0.0):
        self.done, self.fail_at, self.failure = [], fail_at, failure
        for owner, name in ((os, "replace"), (os, "fsync"), (os, "open"), (os, "unlink"),
                            (os, "rmdir"), (Path, "mkdir")):  # fmt: skip
            monkeypatch.setattr(owner, name, self.watched(name, getattr(owner, name)))
        disk = self

        class File(io.FileIO):
            def write(self, content):
                name = Path(self.name).name.removesuffix(".new")
                part = content[: int(share * len(content))]
                disk.note(f"write {name}", lambda: io.FileIO.write(self, part))
                return super().write(content)

        monkeypatch.setattr(durable, "open", File, raising=False)

    def note(self, operation, before=lambda: None):
        self.done.append(operation)
        if len(self.done) - 1 == self.fail_at:
            before()
            raise self.failure

    def watched(self, name, function):
        def call(*args, **options):
            self.note(f"{name} {Path(args[1]).name}" if name == "replace" else name)
            return function(*args, **options)

        return call


def every_failure(tmp_path, monkeypatch, failure, share=0.0):
    """Save in as many runs as a save has file operations, each failing at another one. Yields the
    run, the operations done (the last of them failed), and what came out of the save."""
    for fail_at in itertools.count():
        run = tmp_path / str(fail_at)
        run.mkdir()
        save(run, 1, 2, 3)
        outcome = None
        with monkeypatch.context() as patch:
            disk = Disk(patch, fail_at, failure, share)
            try:
                checkpoint.save(run, 4, SPENT, **states(4))
            except (Crash, UserError) as error:
                outcome = error
        if len(disk.done) <= fail_at:
            return
        yield run, disk.done, outcome


def test_everything_is_on_the_disk_before_what_refers_to_it(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        disk = Disk(patch)
        save(tmp_path, 1, score=None)
    names = ("model.pt", "optimizers.pt", "manifest.json")
    files = [step for name in names for step in (f"write {name}", "fsync", f"replace {name}")]
    sync_folder = ["open", "fsync"] if os.name != "nt" else []
    rename = ["replace step-00000001.old", "replace step-00000001"]  # the former finds nothing
    assert disk.done == ["mkdir", *files, *sync_folder, *rename, *sync_folder]


@pytest.mark.parametrize("share", [0.0, 0.999])
def test_a_crash_at_any_file_operation_leaves_a_whole_checkpoint_and_a_run_that_goes_on(
    tmp_path, monkeypatch, share, capsys
):
    for run, done, outcome in every_failure(tmp_path, monkeypatch, Crash(), share):
        assert isinstance(outcome, Crash)
        renamed = "replace step-00000004" in done[:-1]
        assert steps_in(run)[-1] == (4 if renamed else 3)
        save(run, 4)
        assert steps_in(run) == [3, 4] == [int(path.name[5:]) for path in sorted(run.iterdir())]
    assert len(done) > 20 and "rmdir" in done
    assert not capsys.readouterr().err  # what a crash leaves is no damage


def test_whatever_the_disk_refuses_ruins_nothing_and_is_said(tmp_path, monkeypatch):
    refusal, said = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), 0
    for run, _, outcome in every_failure(tmp_path, monkeypatch, refusal, share=0.5):
        kept = steps_in(run)
        if outcome is None:  # what it refused was only to delete
            assert kept[-1] == 4
            continue
        said += 1
        assert kept in ([2, 3], [2, 3, 4]) and not list(run.glob("*.part"))
        for words in (run, os.strerror(errno.ENOSPC)):
            assert str(words) in str(outcome)
    assert said >= 14


def test_a_file_that_cannot_be_replaced_stays_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "file"
    durable.write_file(path, b"old")
    for fail_at in range(3):  # writing, syncing, renaming
        with monkeypatch.context() as patch, pytest.raises(UserError, match="cannot be written"):
            Disk(patch, fail_at, OSError(errno.EIO, "broken"))
            durable.write_file(path, b"new")
        assert everything(tmp_path) == {path: b"old"}
