"""A script that was interrupted goes on as if it had not been, and never with something else."""

import shutil
import signal
from pathlib import Path

import pytest
from small import (
    FINETUNE,
    PRETRAIN,
    SMALL,
    everything,
    lines_without_times,
    result_of,
    saved_bytes,
    script,
    some_rows,
    some_text,
    write_table,
)

import train_finetune
from minilm.experiments import estimate
from minilm.training import Trainer

pytestmark = pytest.mark.usefixtures("small_world")

EVERY = {
    "causal": ("pretrain", f"{PRETRAIN} --objective causal --steps 6 --evaluations 3"),
    "masked": ("pretrain", f"{PRETRAIN} --objective masked --steps 6 --accumulate 2"),
    "hybrid": ("pretrain", f"{PRETRAIN} --objective hybrid --steps 6 --evaluations 2"),
    "finetune": ("finetune", f"{FINETUNE} --epochs 2 --optimizer muon"),
}


@pytest.mark.parametrize("what", EVERY)
def test_interrupted_and_repeated_runs_end_with_the_same_bytes(what, monkeypatch, capsys):
    name, flags = EVERY[what]
    flags = f"{flags} --dropout 0.1 --seed 3 --run {what}"
    assert script(name, f"{flags}-whole") == 0 == script(name, f"{flags}-again")
    taken, step = [], Trainer.step

    def interrupted(trainer, number):
        taken.append(number)
        if len(taken) in (3, 5):
            signal.raise_signal(signal.SIGINT)
        return step(trainer, number)

    monkeypatch.setattr(Trainer, "step", interrupted)
    assert script(name, f"{flags}-cut") == 130
    assert f"go on with --run {what}-cut --resume" in capsys.readouterr().err
    assert script(name, f"--run {what}-cut --resume") == 130
    assert script(name, f"--run {what}-cut --resume") == 0
    assert taken == list(range(len(taken)))
    for other in ("again", "cut"):
        assert saved_bytes(f"{what}-{other}") == saved_bytes(f"{what}-whole")
        assert lines_without_times(f"{what}-{other}") == lines_without_times(f"{what}-whole")
    assert taken[-1] >= 5


@pytest.mark.slow
def test_interrupted_at_every_step_of_thirty_fine_tuning_is_the_same_run(tmp_path, monkeypatch):
    flags = f"{FINETUNE} --epochs 2 --batch-size 5 --dropout 0.1 --seed 3"
    step = Trainer.step
    assert script("finetune", f"{flags} --run {tmp_path}/whole") == 0
    for at in range(30):
        run = tmp_path / str(at)

        def interrupted(trainer, number, at=at):
            if number == at:
                signal.raise_signal(signal.SIGTERM)
            return step(trainer, number)

        monkeypatch.setattr(Trainer, "step", interrupted)
        assert script("finetune", f"{flags} --run {run}") == 143
        monkeypatch.setattr(Trainer, "step", step)
        assert script("finetune", f"--run {run} --resume") == 0
        assert saved_bytes(run) == saved_bytes(tmp_path / "whole")
        assert lines_without_times(run) == lines_without_times(tmp_path / "whole")
    assert lines_without_times(run)[-1]["step"] == 30


def test_another_seed_gives_other_weights():
    flags = f"{PRETRAIN} --objective causal --steps 1 --run"
    assert script("pretrain", f"{flags} seed-0") == 0
    assert script("pretrain", f"{flags} seed-1 --seed 1") == 0
    assert saved_bytes("seed-0") != saved_bytes("seed-1")


def test_an_interrupted_search_says_how_to_go_on_and_does(monkeypatch, capsys):
    monkeypatch.setattr(
        train_finetune, "SEARCH", {"learning_rate": (0.01, 0.02), "optimizer": ("adamw",)}
    )
    flags = f"{FINETUNE} --search --epochs 1 --run cut-search"
    step, taken = Trainer.step, []

    def interrupted(trainer, number):
        taken.append(number)
        if len(taken) == 7:
            signal.raise_signal(signal.SIGINT)
        return step(trainer, number)

    monkeypatch.setattr(Trainer, "step", interrupted)
    assert script("finetune", flags) == 130
    assert "go on with --run cut-search --resume" in capsys.readouterr().err
    assert script("finetune", "--run cut-search --resume") == 0
    assert len(taken) == 10  # two trials of five steps


def test_a_finished_run_has_nothing_left_to_do(capsys):
    before = saved_bytes("first"), lines_without_times("first"), result_of("first")
    assert script("pretrain", "--run first --resume") == 0
    assert "finished" in capsys.readouterr().out
    assert (saved_bytes("first"), lines_without_times("first"), result_of("first")) == before


@pytest.mark.parametrize("flags", [SMALL, "--init {home}/first"], ids=["own words", "given words"])
def test_a_run_cannot_go_on_with_another_text(small_world, tmp_path, monkeypatch, capfd, flags):
    monkeypatch.chdir(tmp_path)
    Path("own.txt").write_text(some_text(1000, 1), encoding="utf-8")
    flags = f"--data own.txt --precision float32 --steps 2 {flags.format(home=small_world)}"
    assert script("pretrain", f"{flags} --run changed") == 0
    before = everything("changed")
    Path("own.txt").write_text(some_text(1000, 2), encoding="utf-8")
    assert script("pretrain", "--run changed --resume") == 2
    assert "the text has changed" in capfd.readouterr().err and everything("changed") == before


def test_a_run_cannot_go_on_with_the_words_of_another(small_world, tmp_path, capfd):
    run = tmp_path / "run"
    assert script("pretrain", f"{PRETRAIN} --steps 1 --run {run}") == 0
    assert script("pretrain", f"{PRETRAIN} --vocab-size 290 --steps 1 --run {tmp_path}/other") == 0
    shutil.copy(tmp_path / "other" / "tokenizer.json", run / "tokenizer.json")
    assert script("pretrain", f"--run {run} --resume") == 2
    assert "not the words that this run was trained with" in capfd.readouterr().err


def interrupt_at(monkeypatch, number):
    """Ctrl-C at a step, once."""
    step = Trainer.step

    def interrupted(trainer, n):
        if n == number:
            monkeypatch.setattr(Trainer, "step", step)
            signal.raise_signal(signal.SIGINT)
        return step(trainer, n)

    monkeypatch.setattr(Trainer, "step", interrupted)


def test_a_checkpoint_needs_no_more_the_run_that_gave_the_first_weights(tmp_path, monkeypatch):
    shutil.copytree("first", tmp_path / "given")
    run = f"--run {tmp_path}/run"
    interrupt_at(monkeypatch, 2)
    flags = f"--data own.txt --precision float32 --init {tmp_path}/given --steps 4"
    assert script("pretrain", f"{flags} {run}") == 130
    shutil.rmtree(tmp_path / "given")
    assert script("pretrain", f"{run} --resume") == 0
    assert lines_without_times(tmp_path / "run")[-1]["step"] == 4


def test_fine_tuning_goes_on_without_the_run_that_gave_the_first_weights(tmp_path, monkeypatch):
    shutil.copytree("first", tmp_path / "given")
    flags = f"{FINETUNE} --epochs 2".replace("--pretrained first", f"--pretrained {tmp_path}/given")
    assert script("finetune", f"{flags} --run {tmp_path}/whole") == 0
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3)
        assert script("finetune", f"{flags} --run {tmp_path}/cut") == 130
    shutil.rmtree(tmp_path / "given")
    assert script("finetune", f"--run {tmp_path}/cut --resume") == 0
    assert saved_bytes(tmp_path / "cut") == saved_bytes(tmp_path / "whole")


def test_minutes_that_have_become_steps_may_be_given_again(tmp_path, monkeypatch):
    monkeypatch.setattr(estimate, "seconds_per_step", lambda *_: 0.1)
    interrupt_at(monkeypatch, 2)
    flags = f"{PRETRAIN} --minutes 0.021 --run {tmp_path}/run"
    assert script("pretrain", flags) == 130
    assert script("pretrain", f"{flags} --resume") == 0
    assert result_of(tmp_path / "run")["steps"] == 12


@pytest.mark.parametrize("change", [(1, 0), (0, 1)], ids=["texts", "labels"])
def test_a_fine_tuning_run_cannot_go_on_with_other_examples(tmp_path, capfd, change):
    table, run = tmp_path / "own.csv", tmp_path / "run"
    write_table(table, some_rows(40, 1))
    assert script("finetune", f"{FINETUNE} --train {table} --epochs 1 --run {run}") == 0
    before = everything(run)
    more = [tuple(cell + "!" * n for cell, n in zip(row, change, strict=True))
            for row in some_rows(40, 1)]  # fmt: skip
    write_table(table, more)
    assert script("finetune", f"--run {run} --resume") == 2
    assert "other texts or labels" in capfd.readouterr().err and everything(run) == before
