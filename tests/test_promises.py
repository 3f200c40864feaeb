"""Whole runs: the same command gives the same bytes, also when it was interrupted or the disk was
full; a long run does not grow; a run of an older version still loads."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small import (
    FINETUNE,
    PRETRAIN,
    everything,
    lines_without_times,
    saved_bytes,
    script,
)
from test_training import MACHINE, Run, look, make_trainer, train

from minilm import checkpoint
from minilm.runs import FORMAT
from minilm.training import Stopped, share_out

ROOT = Path(checkpoint.__file__).parents[1]
FIXTURES = Path(__file__).parent / "fixtures"

OBJECTIVES = ["causal", "masked", "hybrid"]


# Leaving


def test_a_second_ctrl_c_leaves_at_once(tmp_path):
    def twice(step):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    trainer = make_trainer(before=twice)
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored behind nohup
    try:
        with pytest.raises(KeyboardInterrupt):
            train(trainer, Run(tmp_path), look(trainer))
    finally:
        signal.signal(signal.SIGINT, usual)
    assert not checkpoint.checkpoints(tmp_path)


# The same run


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow),
                                  pytest.param(2, marks=pytest.mark.slow)])  # fmt: skip
@pytest.mark.parametrize("what", [*OBJECTIVES, "finetune"])
def test_a_command_gives_the_same_bytes_in_another_folder_and_with_another_hash_seed(
    small_world, tmp_path, seed, what
):
    if what == "finetune":
        name, flags = "finetune", f"{FINETUNE} --epochs 1 --optimizer adamw"
    else:
        name, flags = "pretrain", f"{PRETRAIN} --steps 3 --objective {what} --optimizer adamw"
    flags = f"{flags} --seed {seed} --dropout 0.1 --run {tmp_path}"
    assert script(name, f"{flags}/here") == 0
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for file in ("own.txt", "own.csv"):
        shutil.copy(file, elsewhere)
    shutil.copytree("first", elsewhere / "first")
    if (what == "hybrid" and seed == 0) or seed > 0:  # a process takes seconds to start
        command = [sys.executable, ROOT / f"train_{name}.py", *f"{flags}/there".split()]
        environment = os.environ | {"PYTHONHASHSEED": str(seed + 7), "PYTHONPATH": str(ROOT)}
        environment |= {"OMP_NUM_THREADS": "1"}
        subprocess.run(command, env=environment, cwd=elsewhere, check=True, capture_output=True)
    else:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(elsewhere)
            assert script(name, f"{flags}/there") == 0
    assert saved_bytes(tmp_path / "here") == saved_bytes(tmp_path / "there")
    assert lines_without_times(tmp_path / "here") == lines_without_times(tmp_path / "there")


def test_the_order_of_batches_depends_on_neither_micro_batches_nor_processes():
    from minilm.device import Machine

    batch = np.arange(12), np.arange(12) * 2
    for world in (1, 2, 3):
        for accumulate in (1, 2, 4):
            rows = [
                sorted(np.concatenate([r for r, _ in share_out(batch, machine, accumulate)]))
                for rank in range(world)
                for machine in [Machine(MACHINE.device, False, "", rank, world)]
            ]
            assert [r for turn in zip(*rows, strict=True) for r in turn] == list(range(12))


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("fall", ["stop", "fall"])
def test_interrupted_at_every_step_of_thirty_a_run_is_the_same_run(tmp_path, objective, fall):
    flags = dict(steps=30, evaluations=7, accumulate=2)
    (tmp_path / "whole").mkdir()
    whole = make_trainer(objective, **flags)
    train(whole, Run(tmp_path / "whole"), look(whole))
    for at in range(30):
        folder = tmp_path / f"{at}"
        folder.mkdir()

        def interrupt(step, at=at):
            if step == at:
                if fall == "fall":
                    raise MemoryError
                signal.raise_signal(signal.SIGINT)

        trainer = make_trainer(objective, before=interrupt, **flags)
        with pytest.raises((MemoryError, Stopped)):
            train(trainer, Run(folder), look(trainer))
        again = make_trainer(objective, **flags)
        train(again, Run(folder), look(again))
        assert saved_bytes(folder) == saved_bytes(tmp_path / "whole")
        assert lines_without_times(folder) == lines_without_times(tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_in_the_middle_of_an_evaluation_does_not_wait_for_its_end(tmp_path, number):
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    whole = make_trainer()
    train(whole, Run(tmp_path / "whole"), look(whole))
    trainer, run = make_trainer(), Run(tmp_path / "stopped")

    def evaluate():
        signal.raise_signal(number)
        raise AssertionError("it went on")

    with pytest.raises(Stopped, match="step 2, which is saved"):
        train(trainer, run, evaluate)
    assert checkpoint.newest(run.folder).step == 2
    again = make_trainer()
    train(again, run, look(again))
    assert saved_bytes(run.folder) == saved_bytes(tmp_path / "whole")
    assert lines_without_times(run.folder) == lines_without_times(tmp_path / "whole")
    scores = [line for line in run.metrics() if "score" in line]
    assert [line["step"] for line in scores] == [2, 4, 6, 8]


@pytest.mark.parametrize("after", ["save", "log", "rate"])
def test_killed_around_an_evaluation_a_run_notes_it_once(tmp_path, monkeypatch, after):
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole = make_trainer()
    train(whole, Run(tmp_path / "whole"), look(whole))
    trainer, run = make_trainer(), Run(tmp_path / "killed")
    owner, name = {"save": (checkpoint, "save"), "log": (Run, "sync_metrics"),
                   "rate": (checkpoint, "rate")}[after]  # fmt: skip
    function, calls = getattr(owner, name), []

    def killed(*args, **options):
        function(*args, **options)
        calls.append(name)
        if len(calls) == (4 if after == "log" else 2):
            raise MemoryError

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(owner, name, killed)
        train(trainer, run, look(trainer))
    again = make_trainer()
    train(again, run, look(again))
    assert saved_bytes(run.folder) == saved_bytes(tmp_path / "whole")
    assert lines_without_times(run.folder) == lines_without_times(tmp_path / "whole")
    assert checkpoint.best(run.folder).score == checkpoint.best(tmp_path / "whole").score


# A full disk under a whole script


@pytest.mark.skipif(os.name == "nt", reason="Windows knows no limit of this kind")
@pytest.mark.parametrize(
    "sizes",
    [[0, 700, 9000, 60_000], pytest.param(range(0, 100_000, 5000), marks=pytest.mark.slow)],
)
def test_on_a_full_disk_a_script_says_so_and_goes_on_when_there_is_room(
    small_world, tmp_path, capsys, sizes, monkeypatch
):
    import resource

    flags = f"{PRETRAIN} --steps 6 --evaluations 3 --optimizer adamw --run"
    assert script("pretrain", f"{flags} {tmp_path}/whole") == 0
    before, whole = everything("first"), resource.getrlimit(resource.RLIMIT_FSIZE)
    capsys.readouterr()
    for size in sizes:
        folder, run = tmp_path / str(size), tmp_path / str(size) / "run"
        folder.mkdir()
        shutil.copy("own.txt", folder)
        monkeypatch.chdir(folder)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, whole[1]))
        try:
            status = script("pretrain", f"{flags} {run}")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, whole)
        resume = f"--run {run} --resume" if (run / "config.json").exists() else f"{flags} {run}"
        said = capsys.readouterr().err.splitlines()[-1]
        assert status == 2 and "cannot be written" in said
        assert script("pretrain", resume) == 0
        assert saved_bytes(run) == saved_bytes(tmp_path / "whole")
        monkeypatch.chdir(small_world)
    assert everything("first") == before


# Long runs


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
@pytest.mark.parametrize("few, many", [(40, 160), pytest.param(200, 2000, marks=pytest.mark.slow)])
def test_a_long_run_holds_no_more_memory_and_files_than_a_short_one(tmp_path, few, many):
    seen = {}

    def before(step):
        if step in (few, many):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            seen[step] = pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir("/proc/self/fd"))

    steps = many + 5
    trainer = make_trainer(before=before, steps=steps, evaluations=20, optimizer="adamw")
    train(trainer, Run(tmp_path), look(trainer))
    assert seen[many][0] < seen[few][0] + 8 * 2**20 and seen[many][1] <= seen[few][1]
    assert len(list(tmp_path.glob("step-*"))) <= 4


# Old runs


def test_a_run_of_each_earlier_format_still_loads_and_says_what_it_said(tmp_path, monkeypatch):
    """tests/fixtures/format-2 holds two runs, a text and a table, all of a few kilobytes, and in
    expected.json what the runs said of them when they were made by

    python train_pretrain.py --data own.txt --d-model 8 --n-layers 1 --n-heads 1 --d-ff 8
        --vocab-size 262 --max-length 16 --batch-size 2 --steps 3 --evaluations 1
        --optimizer adamw --device cpu --precision float32 --run pretrain
    python train_finetune.py --train own.csv --pretrained pretrain --epochs 1 --optimizer adamw
        --device cpu --precision float32 --run finetune
    """
    formats = sorted(FIXTURES.glob("format-*"))
    assert f"format-{FORMAT}" in [folder.name for folder in formats]
    for folder in formats:
        shutil.copytree(folder, tmp_path / folder.name)
        monkeypatch.chdir(tmp_path / folder.name)
        expected = json.loads(Path("expected.json").read_text(encoding="utf-8"))
        for name, value in what_old_runs_say().items():
            assert value == pytest.approx(expected[name], rel=1e-4), (folder.name, name)


def what_old_runs_say():
    """Numbers that depend on every weight of both runs."""
    run, tuned = Run("pretrain"), Run("finetune")
    model, (classifier, config) = run.transformer().eval(), tuned.classifier()
    tokens = torch.from_numpy(run.tokenizer.encode("a cat sat").astype(np.int64))[None]
    with torch.inference_mode():
        logits = model.logits(model(tokens, causal=True)[0])
        labels = classifier.eval()(tokens, torch.ones_like(tokens, dtype=torch.bool), False)
    spent = checkpoint.best(run.folder).spent
    return {
        "words": logits.logsumexp(-1).tolist(),
        "labels": labels.softmax(-1)[0].tolist(),
        "tokens": [spent["tokens"], run.metrics()[-1]["tokens"], len(config["classes"])],
    }
