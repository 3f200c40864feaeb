"""Both scripts from end to end, on a few kilobytes of text: what they print, what they write, and
one line for whatever is wrong."""

import csv
import hashlib
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import train_finetune
import train_pretrain
from minilm import checkpoint, runs
from minilm.flags import entry_point
from minilm.runs import Run
from minilm.training import Trainer

ROOT = Path(train_pretrain.__file__).parent
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


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a text, labelled texts, and a pretraining run called first."""
    place = tmp_path_factory.mktemp("scripts")
    (place / "own.txt").write_text(some_text(4000, 1), encoding="utf-8")
    write_table(place / "own.csv", some_rows(80, 2))
    write_table(place / "more.csv", some_rows(40, 3))
    for file, content in FILES.items():
        (place / file).write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert script("pretrain", f"{PRETRAIN} --run first --steps 10 --evaluations 1") == 0
        assert script("finetune", f"{FINETUNE} --epochs 1 --run labels") == 0
    locked = Run(place / "locked")
    locked.claim(resume=False)
    yield place
    del locked


@pytest.fixture(autouse=True)
def at_home(place, monkeypatch):
    monkeypatch.chdir(place)


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


# Pretraining

SAYS = {
    "causal": ["next-token loss", "bits per byte", "continued: "],
    "masked": ["masked-token loss", "masked tokens right", "filled in: "],
}
SAYS["hybrid"] = SAYS["causal"] + SAYS["masked"]


@pytest.mark.parametrize("objective, steps", [("causal", 80), ("masked", 160), ("hybrid", 120)])
def test_each_objective_learns_more_than_word_frequencies_and_says_what_it_reached(
    objective, steps, capsys
):
    flags = f"--objective {objective} --steps {steps} --evaluations 2 --learning-rate 0.01"
    assert script("pretrain", f"{PRETRAIN} {flags} --run {objective}") == 0
    printed = capsys.readouterr().out
    for words in ("unigram entropy", "the line to beat", "tokens seen", "seconds of training",
                  "FLOP per second", "float32, as asked, on cpu", f"{objective} objective",
                  f"run: {objective}, {steps} steps of 8 x 24 tokens", *SAYS[objective],
                  f"next: python train_finetune.py --pretrained {objective}"):  # fmt: skip
        assert words in printed
    assert not [
        words for words in SAYS["hybrid"] if words in printed and words not in SAYS[objective]
    ]
    result = result_of(objective)
    losses = [value for name, value in result["losses"].items() if name.endswith("_loss")]
    assert losses and max(losses) < result["unigram_entropy"] < math.log(330)
    assert result["tokens"] == steps * 8 * 24
    shares = result["targets"] / result["tokens"]
    assert {"causal": shares == 1, "masked": shares < 0.3, "hybrid": 0.3 < shares < 1}[objective]
    assert (Path(objective) / "tokenizer.json").exists()


def test_causal_then_masked_goes_on_from_the_weights_and_words_of_another_run(monkeypatch):
    seen = []
    monkeypatch.setattr(train_pretrain, "__doc__", "")
    step = Trainer.step
    monkeypatch.setattr(Trainer, "step", lambda trainer, number: (
        seen or seen.extend(p.detach().clone() for p in trainer.model.parameters()),
        step(trainer, number))[1])  # fmt: skip
    flags = "--data more.csv --init first --objective masked --steps 2 --max-length 12"
    assert script("pretrain", f"{flags} --run second --precision float32") == 0
    first = Run("first").transformer()
    assert all(torch.equal(a, b) for a, b in zip(seen, first.parameters(), strict=True))
    assert Run("second").tokenizer.fingerprint == Run("first").tokenizer.fingerprint
    assert config_of("second")["model"]["d_model"] == 32


def test_minutes_become_a_fixed_number_of_steps(monkeypatch, capsys):
    flags = f"{PRETRAIN} --minutes 0.021"
    from minilm.experiments import estimate

    monkeypatch.setattr(estimate, "seconds_per_step", lambda *_: 0.1)
    assert script("pretrain", f"{flags} --run timed") == 0
    assert "0.021 minutes are 12 steps" in capsys.readouterr().out
    saved = config_of("timed")["flags"]
    assert (saved["steps"], saved["minutes"]) == (12, None)
    assert checkpoint.newest(Path("timed")).step == 12


def test_a_finished_run_has_nothing_left_to_do(capsys):
    before = saved_bytes("first"), lines_without_times("first"), result_of("first")
    assert script("pretrain", "--run first --resume") == 0
    assert "finished" in capsys.readouterr().out
    assert (saved_bytes("first"), lines_without_times("first"), result_of("first")) == before


def test_two_processes_learn_what_one_learns():
    """As torchrun starts them: the same batches shared out, the gradients added up."""
    flags = (
        f"{PRETRAIN} --steps 8 --evaluations 2 --objective masked --accumulate 2 --optimizer adamw"
    )
    assert script("pretrain", f"{flags} --run alone") == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(ROOT / "train_pretrain.py"), *flags.split(), "--run", "shared"]
    group = dict(WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    group |= dict(OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT))
    processes = [
        subprocess.Popen(command, env=os.environ | group | dict(RANK=str(rank)),
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for rank in range(2)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    alone, shared = lines_without_times("alone"), lines_without_times("shared")
    assert len(alone) == len(shared) == 10
    for a, b in zip(alone, shared, strict=True):
        assert a == pytest.approx(b, rel=1e-5) and a["targets"] == b["targets"]
    assert "tokens seen" in outputs[0] and not re.search("step|loss", outputs[1])


# Interrupted, resumed, repeated

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


def test_another_seed_gives_other_weights():
    flags = f"{PRETRAIN} --objective causal --steps 1 --run"
    assert script("pretrain", f"{flags} seed-0") == 0
    assert script("pretrain", f"{flags} seed-1 --seed 1") == 0
    assert saved_bytes("seed-0") != saved_bytes("seed-1")


# Fine-tuning


def test_fine_tuning_reads_the_columns_it_is_told_learns_and_reports(capsys):
    for part, n in (("train", 300), ("valid", 40), ("test", 60)):
        write_table(f"{part}.csv", some_rows(n, len(part) + n), header=("body", "kind"))
    files = "--train train.csv --valid valid.csv --test test.csv"
    columns = "--text-column body --label-column kind"
    flags = f"{FINETUNE} {files} {columns} --run tuned --learning-rate 0.01 --epochs 6"
    assert script("finetune", flags) == 0
    printed = capsys.readouterr().out
    for words in ("2 labels, 300 texts to train, 40 texts to valid, 60 texts to test",
                  "are longer than 24 tokens and were cut", "weights of first", "validation: loss",
                  "test set:", "accuracy", "macro F1", "95 %", "majority class", "bag of words",
                  'next: python -m minilm predict tuned "'):  # fmt: skip
        assert words in printed
    result = result_of("tuned")
    assert (result["part"], result["texts"]) == ("test", 60)
    assert result["accuracy"] > 0.9 > result["baselines"]["majority class"]["accuracy"]
    assert config_of("tuned")["classes"] == ["no", "yes"]


def trained_and_loaded(flags, run):
    """Fine-tune; return the weights that came out beside the pretrained ones."""
    assert script("finetune", f"{FINETUNE} --epochs 1 {flags} --run {run}") == 0
    after, _ = Run(run).classifier()
    before = Run("first").transformer().state_dict()
    return after, before


def test_frozen_weights_stay_as_they_were_pretrained():
    after, before = trained_and_loaded("--freeze", "frozen")
    assert all(torch.equal(after.transformer.state_dict()[name], w) for name, w in before.items())
    assert after.head.weight.abs().sum() > 0


def test_from_scratch_starts_from_random_weights(capsys):
    after, before = trained_and_loaded("--from-scratch --freeze", "scratch")
    matrix = after.transformer.blocks[0].attention.qkv.weight
    assert not torch.equal(matrix, before["blocks.0.attention.qkv.weight"])
    assert "random weights" in capsys.readouterr().out


def test_a_few_labels_can_be_asked_for(capsys):
    assert script("finetune", f"{FINETUNE} --labels 20 --epochs 1 --run few") == 0
    assert "20 texts to train" in capsys.readouterr().out and result_of("few")["part"] == "valid"


@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
@pytest.mark.parametrize("pooling", ["mean", "last", "first"])
def test_every_pooling_and_attention_can_be_chosen(pooling, attention):
    run = f"{pooling}-{attention}"
    flags = f"--pooling {pooling} --attention {attention} --epochs 1 --labels 16 --run {run}"
    assert script("finetune", f"{FINETUNE} {flags}") == 0
    classifier, config = Run(run).classifier()
    assert (classifier.pooling, config["flags"]["attention"]) == (pooling, attention)


def test_a_search_keeps_what_validation_likes_best(monkeypatch, capsys):
    rates = {"learning_rate": (1e-9, 0.01), "optimizer": ("adamw", "sgd")}
    monkeypatch.setattr(train_finetune, "SEARCH", rates)
    flags = f"{FINETUNE} --valid more.csv --search --epochs 3 --run searched"
    assert script("finetune", flags) == 0
    printed = capsys.readouterr().out
    rows = re.findall(r"^ +([\d.]+)% +(\S+)  (adamw|sgd)$", printed, flags=re.M)
    assert len(rows) == 4 and rows == sorted(rows, key=lambda row: -float(row[0]))
    assert rows[0][1:] == ("0.01", "adamw")
    winner = checkpoint.best(Path("searched", "search", "adamw-0.01"))
    assert torch.equal(
        Run("searched").classifier()[0].head.weight, winner.read("model")["head.weight"]
    )


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


# Bad input

FILES = {
    "empty.txt": b"",
    "binary.txt": b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
    "nul.txt": b"words\0and words",
    "utf-16.txt": "\ufeffAll words are wide.".encode("utf-16-le"),
    "latin-1.txt": "first line\nein Gruß\n".encode("latin-1"),
    "short.txt": b"few words",
    "one.csv": b"text,label\na,yes\nb,yes\nc,yes\n",
    "odd.csv": b"text,label\na,maybe\n",
    "broken.csv": b'text,label\na,yes\nb,no,more\nc,"no\n',
    "broken.jsonl": b'{"text": "a", "label": "yes"}\n{"text": \n',
    "other.csv": b"body,kind\na,yes\nb,no\n",
    "many.csv": b"text,label\n" + b"".join(b"text %d,%d\n" % (i, i % 9) for i in range(40)),
}


@pytest.mark.parametrize(
    "name, flags, says",
    [
        ("pretrain", "--data nowhere.txt", "nowhere.txt: no such file"),
        ("pretrain", "--data nowhere", "nowhere: neither a file, nor a folder, nor a corpus"),
        ("pretrain", "--data empty.txt", "empty.txt: the file is empty"),
        ("pretrain", "--data binary.txt", "binary.txt: this is a PNG picture"),
        ("pretrain", "--data nul.txt", "nul.txt: NUL bytes"),
        ("pretrain", "--data utf-16.txt", "--encoding utf-16"),
        ("pretrain", "--data latin-1.txt", "latin-1.txt: line 2, byte 18"),
        ("pretrain", "--data short.txt", "fewer than one window"),
        ("pretrain", "--data own.csv --text-column body", "no column 'body'"),
        ("pretrain", "--stepps 5", "--stepps: did you mean --steps?"),
        ("pretrain", "--n-heads 5", "--d-model 32 cannot be shared out among --n-heads 5"),
        ("pretrain", "--dropout 2", "--dropout is 2.0"),
        ("pretrain", "--vocab-size 5", "--vocab-size is 5"),
        ("pretrain", "--vocab-size 99999", "--vocab-size is 99999"),
        ("pretrain", "--device cuda", "--device cuda: torch finds none here"),
        ("pretrain", "--run first", "first already holds a run"),
        ("pretrain", "--run locked", "locked is in use by another process"),
        ("pretrain", "--run own.txt", "own.txt cannot be written to"),
        ("pretrain", "--resume", "there is no pretrain run in"),
        ("pretrain", "--resume --run elsewhere", "elsewhere is not a run"),
        ("pretrain", "--resume --run first --steps 11", "--steps 11 cannot be changed"),
        ("pretrain", "--resume --run labels", "labels is a finetune run"),
        ("pretrain", "--vocab-size 297 --init elsewhere", "elsewhere is not a run"),
        ("pretrain", "--vocab-size 297 --init first --d-model 64", "--d-model 64: the weights of --init have 32"),
        ("finetune", "--train nowhere.csv", "nowhere.csv: no such file"),
        ("finetune", "--train own.txt", "a .txt holds no labels"),
        ("finetune", "--train other.csv", "found: 'body', 'kind'"),
        ("finetune", "--label-column body --train other.csv", "no column 'text'"),
        ("finetune", "--train one.csv", "has 1 label to learn"),
        ("finetune", "--test odd.csv", "test has the label 'maybe', which train never shows"),
        ("finetune", "--train broken.csv", "broken.csv: line 3: 3 cells"),
        ("finetune", "--train broken.jsonl", "broken.jsonl: line 2: broken JSON"),
        ("finetune", "--labels 1", "--labels 1: train has"),
        ("finetune", "--data moon", "--data and --train"),
        ("finetune", "--poolin mean", "did you mean --pooling?"),
        ("finetune", "--dropout 1", "--dropout is 1.0"),
        ("finetune", "--pretrained elsewhere", "elsewhere is not a run"),
        ("finetune", "--pretrained own.csv", "own.csv is not a run"),
        ("finetune", "--pretrained labels", "labels is a finetune run"),
        ("finetune", "--run labels", "labels already holds a run"),
        ("finetune", "--run first --resume", "first is a pretrain run"),
        ("finetune", "--run labels --resume --epochs 9", "--epochs 9 cannot be changed"),
    ],
)  # fmt: skip
def test_whatever_is_wrong_is_one_line_and_nothing_is_written_over(
    name, flags, says, capfd, monkeypatch
):
    monkeypatch.setattr(runs, "RUNS", Path("none-yet"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    common = {"pretrain": PRETRAIN + " --steps 1", "finetune": FINETUNE}[name]
    if "--resume" in flags:
        common = ""
    before = everything()
    capfd.readouterr()
    assert script(name, f"{common} {flags}") == 2
    error = capfd.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and says in error
    assert {path: digest for path, digest in everything().items() if path in before} == before


def test_without_a_pretrained_run_the_script_that_makes_one_is_named(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    write_table("own.csv", some_rows(4, 1))
    assert script("finetune", "--train own.csv --precision float32") == 2
    assert "start with python train_pretrain.py" in capfd.readouterr().err
    assert everything() == {Path("own.csv"): everything()[Path("own.csv")]}


def test_a_run_cannot_go_on_with_another_text(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    Path("own.txt").write_text(some_text(1000, 1), encoding="utf-8")
    assert script("pretrain", f"{PRETRAIN} --steps 2 --run changed") == 0
    before = everything("changed")
    Path("own.txt").write_text(some_text(1000, 1).upper(), encoding="utf-8")
    assert script("pretrain", "--run changed --resume") == 2
    assert "the text has changed" in capfd.readouterr().err and everything("changed") == before


def test_a_fine_tuning_run_cannot_go_on_with_other_labels(tmp_path, capfd):
    table = tmp_path / "own.csv"
    write_table(table, some_rows(40, 1))
    assert script("finetune", f"{FINETUNE} --train {table} --epochs 1 --run relabelled") == 0
    before = everything("relabelled")
    write_table(table, [(text, label * 2) for text, label in some_rows(40, 1)])
    assert script("finetune", "--run relabelled --resume") == 2
    assert "labels have changed" in capfd.readouterr().err and everything("relabelled") == before


def test_a_learning_rate_that_explodes_is_stopped_and_never_saved(capfd):
    flags = f"{PRETRAIN} --learning-rate 1e30 --steps 20 --evaluations 20 --run exploded"
    assert script("pretrain", flags) == 3
    error = capfd.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    for found in checkpoint.checkpoints(Path("exploded")):
        assert all(torch.isfinite(weight).all() for weight in found.read("model").values())
    assert not Path("exploded", "result.json").exists()
