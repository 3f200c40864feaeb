"""A save that is broken off: every file operation fails in turn, or the disk refuses it. All the
failure points are enumerated, not sampled."""

import errno
import io
import itertools
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from small import PRETRAIN, everything, saved_bytes, script
from test_checkpoint import SPENT, hold_what_was_saved, save, states, steps_in

from minilm import checkpoint, durable
from minilm.config import UserError


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
        if len(self.done) == self.fail_at:
            self.done.append(operation)
            before()
            raise self.failure
        self.done.append(operation)

    def watched(self, name, function):
        def call(*args, **options):
            to = Path(args[1]).name if name == "replace" else ""
            self.note(f"{name} {to}".strip())
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


def test_files_are_synced_before_the_manifest_and_the_manifest_before_the_rename(
    tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        disk = Disk(patch)
        save(tmp_path, 1)
    names = ("model.pt", "optimizers.pt", "manifest.json")
    files = [step for name in names for step in (f"write {name}", "fsync", f"replace {name}")]
    sync_folder = ["open", "fsync"] if os.name != "nt" else []
    rename = ["replace step-00000001.old", "replace step-00000001"]  # the former finds nothing
    expected = ["mkdir", *files, *sync_folder, *rename, *sync_folder]
    important = ("mkdir", "write", "fsync", "replace", "open")
    done = [operation for operation in disk.done if operation.startswith(important)]
    assert done[: len(expected)] == expected


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_a_crash_at_any_file_operation_leaves_a_whole_checkpoint_and_a_run_that_goes_on(
    tmp_path, monkeypatch, share, capsys
):
    for run, done, outcome in every_failure(tmp_path, monkeypatch, Crash(), share):
        assert isinstance(outcome, Crash)
        renamed = "replace step-00000004" in done[:-1]
        assert checkpoint.newest(run).step == (4 if renamed else 3)
        assert all(hold_what_was_saved(found) for found in checkpoint.checkpoints(run))
        save(run, 4)
        assert steps_in(run) == [3, 4] == [int(path.name[5:]) for path in sorted(run.iterdir())]
    assert len(done) > 20 and "rmdir" in done
    assert not capsys.readouterr().err  # what a crash leaves is no damage


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EACCES])
def test_whatever_the_disk_refuses_ruins_nothing_and_is_said(tmp_path, monkeypatch, number):
    refusal = OSError(number, os.strerror(number))
    said = 0
    for run, _, outcome in every_failure(tmp_path, monkeypatch, refusal, share=0.5):
        assert all(hold_what_was_saved(found) for found in checkpoint.checkpoints(run))
        kept = steps_in(run)
        if outcome is None:  # what it refused was only to delete
            assert kept[-1] == 4
            continue
        said += 1
        assert kept in ([2, 3], [2, 3, 4]) and not list(run.glob("*.part"))
        text = str(outcome)
        assert str(run / "step-00000004") in text and os.strerror(number) in text
        assert "takes" in text and "bytes" in text and "\n" not in text
    assert said >= 14


@pytest.mark.skipif(os.name == "nt", reason="Windows knows no limit of this kind")
def test_a_limit_on_the_size_of_files_ruins_nothing_and_is_said(tmp_path):
    import resource

    save(tmp_path, 1)
    before = everything(tmp_path)
    largest = max(path.stat().st_size for path in before)
    whole = resource.getrlimit(resource.RLIMIT_FSIZE)
    refused = 0
    for limit in range(0, 20 * (largest // 16), largest // 16):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, whole[1]))
        try:
            save(tmp_path, 2)
        except UserError as error:
            refused += 1
            assert "step-00000002" in str(error) and everything(tmp_path) == before
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, whole)
    assert refused >= 16 and steps_in(tmp_path) == [1, 2]


def test_too_little_room_is_said_before_anything_is_written(tmp_path):
    durable.require_room(tmp_path, 1)
    with pytest.raises(UserError, match="1,000,000,000,000,000,000 bytes are needed"):
        durable.require_room(tmp_path, 10**18)


def test_without_room_for_its_checkpoints_a_run_does_not_start_and_can_later(
    small_world, tmp_path, monkeypatch, capsys
):
    flags = f"{PRETRAIN} --steps 2 --evaluations 1 --run {tmp_path}"
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
        assert script("pretrain", f"{flags}/run") == 2
    error = capsys.readouterr().err
    assert f"{tmp_path}" in error and "bytes are needed for its checkpoints, 1,000 are" in error
    assert not list(tmp_path.rglob("step-*"))
    assert script("pretrain", f"--resume --run {tmp_path}/run") == 0
    assert script("pretrain", f"{flags}/whole") == 0
    assert saved_bytes(tmp_path / "run") == saved_bytes(tmp_path / "whole")
