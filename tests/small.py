"""A small world for the tests of the scripts: a text, labelled texts, and a way to run a script."""

import csv
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

import train_finetune
import train_pretrain
from minilm import checkpoint
from minilm.flags import entry_point
from minilm.runs import Run

WORDS = [f"{a}{b}" for a in ("ka", "lo", "mi", "nu", "re", "so") for b in ("ba", "dir", "fen", "g")]
SMALL = "--d-model 32 --n-layers 1 --n-heads 2 --vocab-size 330 --max-length 24 --batch-size 8"
PRETRAIN = f"--data own.txt {SMALL} --device cpu --precision float32"
FINETUNE = "--train own.csv --pretrained first --device cpu --precision float32 --batch-size 16"


def some_text(n, seed):
    """Words of which each is followed by one of two, so that there is something to learn."""
    rng = np.random.default_rng(seed)
    follow = np.random.default_rng(0).integers(0, len(WORDS), (len(WORDS), 2))
    at, words = 0, []
    for choice in rng.integers(0, 2, n):
        at = follow[at, choice]
        words.append(WORDS[at])
    return " ".join(words)


def write_table(path, rows, header=("text", "label")):
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def some_rows(n, seed):
    """Texts that are "yes" if they hold a certain word, and "no" if another."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        words = some_text(rng.integers(3, 30), [seed, i]).split()
        words[rng.integers(len(words))] = ("xx", "zz")[i % 2]
        rows.append((" ".join(words), ("yes", "no")[i % 2]))
    return rows


def script(name, arguments):
    """Run a script in this process. Returns its exit status."""
    module = {"pretrain": train_pretrain, "finetune": train_finetune}[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"train_{name}.py", *arguments.split()])
        try:
            entry_point(module.main)
        except SystemExit as ended:
            return ended.code
    return 0


def everything(folder="."):
    paths = (path for path in Path(folder).rglob("*") if path.is_file())
    return {path: hashlib.sha256(path.read_bytes()).digest() for path in paths}


def saved_bytes(run):
    """The weights and optimizer states that a run ended with."""
    folder = checkpoint.newest(Path(run)).folder
    return [(folder / name).read_bytes() for name in ("model.pt", "optimizers.pt")]


def lines_without_times(run):
    return [{k: v for k, v in line.items() if k != "seconds"} for line in Run(run).metrics()]


def config_of(run):
    return json.loads((Path(run) / "config.json").read_text(encoding="utf-8"))


def result_of(run):
    return json.loads((Path(run) / "result.json").read_text(encoding="utf-8"))
