"""Checkpoints: whatever happens while one is written, an older one stays whole, and what is damaged
is never used in silence."""

import hashlib
import json
import math
import os
import pickle
import shutil

import pytest
import torch
from small import everything

from minilm import checkpoint, durable
from minilm.config import NonFiniteError, UserError

SPENT = dict(tokens=5, targets=3, seconds=0.5)


def states(step):
    weights = torch.randn(40, 3, generator=torch.Generator().manual_seed(step))
    return dict(model={"w": weights, "b": weights.bfloat16()}, optimizers=[{"step": step}])


def save(run, *steps, score=1.0):
    for step in steps:
        checkpoint.save(run, step, SPENT, **states(step))
        if score < math.inf:
            checkpoint.rate(run, step, score)


def hold_what_was_saved(found):
    read = found.read("model")
    assert all(torch.equal(t, read[name]) for name, t in states(found.step)["model"].items())
    assert found.read("optimizers") == states(found.step)["optimizers"]
    return True


def steps_in(run):
    return [found.step for found in checkpoint.checkpoints(run)]


def test_what_is_read_is_what_was_saved(tmp_path):
    save(tmp_path, 7)
    found = checkpoint.newest(tmp_path)
    assert hold_what_was_saved(found) and (found.score, found.spent) == (1.0, SPENT)


def test_the_newest_two_and_the_best_are_kept(tmp_path):
    for step, score in enumerate((3.0, 1.0, 2.0, math.inf, 2.5, math.inf), 1):
        save(tmp_path, step, score=score)
    assert steps_in(tmp_path) == [2, 5, 6] == [int(p.name[5:]) for p in sorted(tmp_path.iterdir())]
    assert (checkpoint.newest(tmp_path).step, checkpoint.best(tmp_path).step) == (6, 2)


def test_of_equally_good_checkpoints_the_later_is_best(tmp_path):
    save(tmp_path, 1, 2)
    assert checkpoint.best(tmp_path).step == 2


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_never_saved(tmp_path, value):
    save(tmp_path, 1)
    before, broken = everything(tmp_path), states(2)
    broken["model"]["b"][5, 1] = value
    with pytest.raises(NonFiniteError, match="b is not finite"):
        checkpoint.save(tmp_path, 2, SPENT, **broken)
    assert everything(tmp_path) == before and steps_in(tmp_path) == [1]


def test_the_best_checkpoint_moves_to_another_run_and_the_rest_can_be_deleted(tmp_path):
    trial, run = tmp_path / "trial", tmp_path / "run"
    trial.mkdir()
    run.mkdir()
    save(trial, 1, score=0.5)
    save(trial, 2, 3)
    checkpoint.move(checkpoint.best(trial), run)
    assert hold_what_was_saved(checkpoint.best(run)) and checkpoint.best(run).score == 0.5
    assert steps_in(run) == [1] and steps_in(trial) == [2, 3]
    truncate(trial / "step-00000003", "model.pt")
    checkpoint.delete_all(trial)
    assert not list(trial.iterdir()) and steps_in(run) == [1]


# Damage


def flip(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)


def truncate(folder, name):
    (folder / name).write_bytes((folder / name).read_bytes()[:-1])


def remove(folder, name):
    (folder / name).unlink()


def exchange(folder, name):
    shutil.copy(folder.with_name("step-00000001") / name, folder / name)


@pytest.mark.parametrize("name", ["model.pt", "optimizers.pt", "manifest.json"])
@pytest.mark.parametrize("damage", [flip, truncate, remove, exchange])
def test_a_damaged_checkpoint_is_passed_over_and_the_one_before_it_used(
    tmp_path, damage, name, capsys
):
    save(tmp_path, 1, 2)
    damage(tmp_path / "step-00000002", name)
    found = checkpoint.newest(tmp_path)
    assert found.step == 1 and hold_what_was_saved(found) and checkpoint.best(tmp_path).step == 1
    assert "step-00000002 is damaged and not used" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        "nonsense",
        [1],
        dict(step=3),
        dict(step="two"),
        dict(step=None),
        dict(score=[]),
        dict(spent=4),
        dict(files={}),
        dict(files=[]),
        dict(files={"../../secret": "0"}),
    ],
)
def test_a_manifest_that_says_something_else_is_not_believed_even_with_a_seal(tmp_path, change):
    save(tmp_path, 1, 2)
    path = tmp_path / "step-00000002" / "manifest.json"
    if isinstance(change, dict):
        path.write_bytes(durable.seal(durable.unseal(path) | change))
    else:
        path.write_text(json.dumps(change))
    assert checkpoint.newest(tmp_path).step == 1


@pytest.mark.parametrize(
    "change",
    [dict(score=0.5), dict(score=math.nan), dict(spent={}), dict(sha256="0"), dict(more=1)],
)
def test_whatever_is_edited_in_a_manifest_breaks_its_seal(tmp_path, change):
    save(tmp_path, 1, 2)
    path = tmp_path / "step-00000002" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert checkpoint.newest(tmp_path).step == 1


def test_without_a_whole_checkpoint_there_is_nothing_to_use(tmp_path):
    save(tmp_path, 1)
    flip(tmp_path / "step-00000001", "model.pt")
    assert checkpoint.newest(tmp_path) is None
    with pytest.raises(UserError, match="no whole checkpoint"):
        checkpoint.best(tmp_path)


def reseal(folder):
    """Make a manifest for the files as they are, as one who means harm can."""
    manifest = durable.unseal(folder / "manifest.json")
    manifest["files"] = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.pt")
    }
    (folder / "manifest.json").write_bytes(durable.seal(manifest))


class Bomb:
    """What a hostile file would hold: reading it as Python objects runs a command."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("write", [torch.save, lambda *bomb: pickle.dump(*bomb, protocol=2)])
def test_a_hostile_checkpoint_runs_nothing(tmp_path, write):
    save(tmp_path, 1)
    folder, exploded = tmp_path / "step-00000001", tmp_path / "exploded"
    with open(folder / "model.pt", "wb") as file:
        write({"w": Bomb(exploded)}, file)
    reseal(folder)
    with pytest.raises(UserError, match=r"model\.pt"):
        checkpoint.newest(tmp_path).read("model")
    assert not exploded.exists()
