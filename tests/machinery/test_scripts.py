"""The scripts and the commands, from flags to files: what a person types, and what comes out."""

import csv
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import train_finetune
import train_pretrain
from minilm.cli import scripts
from minilm.cli.commands import commands
from minilm.cli.commands import main as minilm
from minilm.cli.options import PretrainConfig
from minilm.config import SIZES
from minilm.runs import checkpoint, loop
from minilm.runs.device import Machine
from minilm.runs.run import Run
from tests.machinery.tiny import bits_of

SHAPE = "--d-model 16 --n-layers 1 --n-heads 2 --vocab-size 300 --max-length 16 --batch-size 4"
CPU = "--device cpu --precision float32"
WORDS = ["kaba", "lodi", "mifen", "nug", "reba", "sodir"]


def some_text(n, seed):
    """Sentences of words, each followed by one of two: there is something to learn."""
    rng, at, words = np.random.default_rng(seed), 0, []
    for choice in rng.integers(1, 3, n):
        at = (at + choice) % len(WORDS)
        words.append(WORDS[at])
    return " ".join(words)


def table(path, n, seed, header=("text", "label")):
    """Texts that hold "xx" are "yes", the others "no"."""
    rows = [(some_text(6, [seed, i]) + (" xx", " zz")[i % 2], ("yes", "no")[i % 2])
            for i in range(n)]  # fmt: skip
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a text, tables, and a run of each kind: "first" (a hybrid) and "labels"."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder := tmp_path_factory.mktemp("trained"))
        Path("own.txt").write_text(some_text(1500, 0), encoding="utf-8")
        table("own.csv", 60, 1)
        table("test.csv", 30, 2)
        assert pretrain(name="first") == finetune(name="labels") == 0
    return folder


@pytest.fixture
def world(trained, tmp_path, monkeypatch):
    """A copy of it to work in."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)


def run(name, arguments):
    """Run a command here; pretrain and finetune are the scripts. Returns its exit status."""
    try:
        minilm([name, *(arguments.split() if isinstance(arguments, str) else arguments)])
    except SystemExit as ended:
        return ended.code
    return 0


def pretrain(more="", name="again"):
    flags = f"--data own.txt {SHAPE} {CPU} --steps 8 --evaluations 2"
    return run("pretrain", f"{flags} --run {name} {more}")


def finetune(more="", name="tuned"):
    flags = f"--train own.csv --pretrained first {CPU} --epochs 2"
    return run("finetune", f"{flags} --run {name} {more}")


def test_from_a_text_to_a_classifier_and_what_is_printed_is_what_is_used(world, capsys):
    assert pretrain() == 0
    shown = capsys.readouterr().out
    assert "used from now on: step" in shown and "next: python" in shown
    result = json.loads(Path("again/result.json").read_text())
    assert run("evaluate", "again --device cpu") == 0
    evaluated = capsys.readouterr().out
    for name in ("causal_loss", "masked_loss"):
        assert f"{result['losses'][name]:.3f}" in shown  # of the best checkpoint
        assert f"{result['losses'][name]:.3f}" in evaluated

    assert finetune("--test test.csv") == 0
    shown = capsys.readouterr().out
    assert "these weights" in shown and "random weights" in shown and "a bag of tokens" in shown
    rows = json.loads(Path("tuned/result.json").read_text())["rows"]
    assert rows["a bag of tokens"]["accuracy"] == 1.0  # one word decides
    assert run("evaluate", "tuned --device cpu --test test.csv") == 0
    assert f"accuracy {100 * rows['these weights']['accuracy']:.1f} %" in capsys.readouterr().out


def test_predictions_are_written_and_can_be_read_again(world):
    Path("new.txt").write_text("kaba xx\r\nlodi zz\n\n", encoding="utf-8", newline="")
    assert run("predict", "labels --file new.txt --out out.jsonl --device cpu") == 0
    assert run("predict", "labels --file out.jsonl --out again.jsonl --device cpu") == 0
    again = [json.loads(line) for line in Path("again.jsonl").read_text().splitlines()]
    assert [row["text"] for row in again] == ["kaba xx", "lodi zz", ""]  # a row a line
    assert run("predict", "labels --file new.txt --out out.jsonl --device cpu") == 2  # is there


def interrupted(monkeypatch, at):
    """Ctrl-C while the batch of the `at`th step is made."""
    calls = iter(range(1, 10**6))
    share_out = Machine.share_out

    def stop(*arguments):
        if next(calls) == at:
            os.kill(os.getpid(), signal.SIGINT)
        return share_out(*arguments)

    monkeypatch.setattr(Machine, "share_out", stop)


def weights(name):
    return bits_of(checkpoint.newest(Path(name)).read("model"))


def test_what_was_interrupted_and_resumed_ends_with_the_same_bits(world, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        interrupted(patch, 3)
        assert pretrain(name="cut") == 130
    assert run("pretrain", "--resume --run cut") == 0
    assert weights("cut") == weights("first")
    assert "go on with --run cut --resume" in capsys.readouterr().err
    for step in (5, 17):  # of these weights, and of the network from random weights beside them
        with monkeypatch.context() as patch:
            interrupted(patch, step)
            assert finetune(name=f"cut-{step}") == 130
        error = capsys.readouterr().err
        assert f"go on with --run cut-{step} --resume" in error and "Traceback" not in error
        assert run("finetune", f"--resume --run cut-{step}") == 0
        assert weights(f"cut-{step}") == weights("labels")


def test_a_run_goes_on_in_the_precision_that_it_began_in(world, capsys):
    assert pretrain("--precision bfloat16") == run("pretrain", "--resume --run again") == 0
    assert capsys.readouterr().out.count("bfloat16, as asked, on cpu") == 2


def test_weights_go_on_with_another_objective_where_they_predicted_before(world):
    """Those of a hybrid: tokens are predicted one position early."""
    more = f"--data own.txt {CPU} --init first --objective masked --batch-size 4 --steps 8"
    assert run("pretrain", f"{more} --run second") == 0
    assert Run("second").config["flags"]["shift"] == 1
    before, after = (json.loads(Path(f"{r}/result.json").read_text()) for r in ("first", "second"))
    assert after["losses"]["masked_loss"] < before["losses"]["masked_loss"] + 0.1
    assert pretrain("--objective masked", name="third") == 0
    assert Run("third").config["flags"]["shift"] == 0


def test_minutes_become_a_number_of_steps(world, monkeypatch, capsys):
    monkeypatch.setattr(scripts, "estimate", functools.partial(scripts.estimate, measure=0.1))
    arguments = f"--data own.txt {SHAPE} {CPU} --minutes 0.01 --evaluations 1 --run timed"
    assert run("pretrain", arguments) == 0
    flags = Run("timed").config["flags"]
    assert flags["minutes"] is None and flags["steps"] == checkpoint.best(Path("timed")).step
    said = rf"{flags['steps']:,} steps fit into 0.01 minutes in .* on cpu: [\d.]+ passes"
    assert re.match(said, capsys.readouterr().out)


def test_without_bfloat16_the_default_is_what_five_minutes_take():
    slow, fast = (Machine(torch.device("cpu"), t) for t in (torch.float32, torch.bfloat16))
    length = lambda machine, **flags: [
        getattr(scripts.with_first_weights(PretrainConfig(**flags), machine)[1], name)
        for name in ("steps", "minutes")
    ]
    tiny = SIZES["tiny"]["steps"]
    assert length(slow) == [None, 5.0] and length(fast) == [tiny, None]
    assert length(slow, precision="float32") == [tiny, None]  # who asks for it has a reason
    assert length(slow, steps=7) == [7, None] and length(slow, minutes=2.0) == [None, 2.0]
    assert length(slow, size="small") == [SIZES["small"]["steps"], None]


def test_too_little_memory_is_one_line_and_the_run_is_released_though_its_error_is_kept(
    world, monkeypatch, capsys
):
    kept = RuntimeError("DefaultCPUAllocator: can't allocate memory:\nyou tried to allocate 9")

    def fill(*_):
        raise kept

    monkeypatch.setattr(loop, "train", fill)
    assert pretrain() == 2
    said = capsys.readouterr().err
    assert said.splitlines()[-1].startswith("error: out of memory") and "Traceback" not in said
    with Run("again").claim(resume=True):
        assert kept.__traceback__  # whose frames hold the run


def test_a_search_keeps_what_validation_prefers_and_frees_the_rest(world, monkeypatch, capsys):
    monkeypatch.setattr(train_finetune, "SEARCH", [(1e-4, "adamw"), (1e-2, "adamw")])
    assert finetune("--search --baselines none") == 0
    assert "validation score" in capsys.readouterr().out
    assert not list(Path("tuned/search").rglob("*.pt"))
    chosen = json.loads(Path("tuned/result.json").read_text())["learning_rate"]
    scores = json.loads(Path("tuned/search.json").read_text())["scores"]
    assert scores[f"{chosen}-adamw"] == min(scores.values()) and len(scores) == 2
    for damage in ("{", '{"scores": {}, "spent": {}}'):
        Path("tuned/search.json").write_text(damage)
        assert run("finetune", "--resume --run tuned") == 2
        assert "search.json is damaged" in capsys.readouterr().err


BAD = {  # arguments -> what the line must say
    "pretrain": {
        "--data nowhere.txt": "nowhere.txt",
        "--lr 1": "--learning-rate",
        "--learning-rate 1e308": "learning-rate",
        "--minutes 1e300": "minutes",
        f"--seed {10**40}": "seed",
        "--steps 3 --minutes 2": "one or the other",
        "--d-model 30 --n-heads 4": "multiple",
        "--init nowhere": "nowhere",
        "--resume --run nowhere": "nowhere",
        "--resume --run first --steps 9": "--steps 9 cannot be changed on resume: the run has 8",
        "--data own.txt --init first --d-model 32": "--d-model 32: the weights of --init have 16",
        "--objective hidden": "hidden",
        "--n-heads 0": "n-heads",
    },
    "finetune": {
        "--train own.csv --data imdb": "both",
        "--attention causal --pooling first": "first token",
        "--layer-decay 1e300": "layer-decay",
        "--resume --run labels --dropout 0.2": "--dropout 0.2 cannot be changed on resume",
        "--pretrained first --train own.csv --label-column stars": "stars",
        "--pretrained first --train own.csv --labels 1": "labels",
        "--pretrained first --train own.txt": "own.txt",
        "--pretrained nowhere --train own.csv": "nowhere",
        "--train own.csv": "no pretrain run",
    },
    "generate": {
        "nowhere": "nowhere",
        "first x --temperature -1": "temperature",
        "first --top-k 0": "top-k",
    },
    "fill": {"first none": "<mask>"},
    "predict": {"first text": "other kind", "labels": "--file", "labels --file nowhere": "nowhere"},
    "evaluate": {"first --test own.csv": "no labels", "labels --test own.txt": "own.txt"},
    "fetch": {"nothing": "imdb"},
    "compute": {"": "compute"},
    "view": {"nowhere": "nowhere"},
    "export": {"first own.txt": "own.txt"},
}


def test_bad_input_is_one_line_and_nothing_is_lost(world, capsys):
    before = {p: p.read_bytes() for p in Path(".").rglob("*") if p.is_file()}
    for name, cases in BAD.items():
        for arguments, expected in cases.items():
            capsys.readouterr()
            where = CPU if name in ("pretrain", "finetune") else ""
            status = run(name, f"{where} {arguments}")
            error = capsys.readouterr().err
            said = f"{name} {arguments}: {error}"
            assert status == 2 and expected in error and "Traceback" not in error, said
            assert error.startswith("error: ") or "\nerror: " in error, said
            assert error.count("error: ") == 1 and error.endswith("\n"), said
    after = {p: p.read_bytes() for p in Path(".").rglob("*") if p.is_file()}
    assert {p: after.get(p) for p in before} == before
    assert not list(Path("runs").glob("*")) if Path("runs").exists() else True


@pytest.mark.parametrize("flags", [[], ["-OO"]])  # which leaves docstrings out
def test_help_of_every_command_answers_without_torch(flags):
    code = """
import contextlib, runpy, sys
sys.modules["torch"] = None  # importing it fails
from minilm.cli.commands import commands, run_command
run_command([])
sys.argv = ["a script", "--help"]
for name in [*commands(), "train_pretrain", "train_finetune"]:
    with contextlib.suppress(SystemExit):
        if name in commands():
            run_command([name, "--help"])
        runpy.run_module(name, run_name="__main__")
"""
    how = dict(cwd=Path(train_pretrain.__file__).parent, check=True, capture_output=True, text=True)
    shown = " ".join(subprocess.run([sys.executable, *flags, "-c", code], **how).stdout.split())
    assert shown.count("usage: ") == len(commands()) + 3
    assert shown.count("--learning-rate RATE at its") == 5
    assert "how many to write at most (default: 200)" in shown
