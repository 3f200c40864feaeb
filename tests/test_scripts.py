"""Both scripts from end to end, on a few kilobytes of text: what they learn, print and write."""

import math
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small import (
    FINETUNE,
    PRETRAIN,
    config_of,
    lines_without_times,
    result_of,
    saved_bytes,
    script,
    some_rows,
    write_table,
)

import train_finetune
import train_pretrain
from minilm import checkpoint, labelled
from minilm.experiments import estimate
from minilm.runs import Run
from minilm.training import Trainer

ROOT = Path(train_pretrain.__file__).parent
pytestmark = pytest.mark.usefixtures("small_world")


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
    assert {"causal": shares == 1, "masked": 0.215 < shares < 0.235, "hybrid": 0.3 < shares < 1}[
        objective
    ]
    assert (Path(objective) / "tokenizer.json").exists()


def test_causal_then_masked_goes_on_from_the_weights_and_words_of_another_run(monkeypatch):
    seen = []
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
    monkeypatch.setattr(estimate, "seconds_per_step", lambda *_: 0.1)
    assert script("pretrain", f"{flags} --run timed") == 0
    assert "0.021 minutes are 12 steps" in capsys.readouterr().out
    saved = config_of("timed")["flags"]
    assert (saved["steps"], saved["minutes"]) == (12, None)
    assert checkpoint.newest(Path("timed")).step == 12


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


def test_a_few_labels_can_be_asked_for_which_every_epoch_orders_anew(monkeypatch, capsys):
    epochs, epoch_batches = [], labelled.epoch_batches
    monkeypatch.setattr(
        labelled, "epoch_batches", lambda *args: epochs.append(args[-1]) or epoch_batches(*args)
    )
    assert script("finetune", f"{FINETUNE} --labels 20 --epochs 2 --run few") == 0
    assert "20 texts to train" in capsys.readouterr().out and result_of("few")["part"] == "valid"
    assert epochs == [0, 1]


@pytest.mark.parametrize("pooling", ["mean", "last", "first"])
def test_every_pooling_and_attention_can_be_chosen(pooling):
    for attention in ("causal", "bidirectional"):
        flags = f"--pooling {pooling} --attention {attention} --epochs 1 --labels 32"
        assert script("finetune", f"{FINETUNE} {flags} --run {pooling}-{attention}") == 0
        classifier, config = Run(f"{pooling}-{attention}").classifier()
        assert (classifier.pooling, config["flags"]["attention"]) == (pooling, attention)
    weights = [saved_bytes(f"{pooling}-{attention}") for attention in ("causal", "bidirectional")]
    # In a single block the last position sees everything, whichever way it looks.
    assert pooling == "last" or weights[0] != weights[1]


def test_a_search_keeps_what_validation_likes_best(monkeypatch, capsys):
    rates = {"learning_rate": (1e-9, 0.01), "optimizer": ("adamw", "sgd")}
    monkeypatch.setattr(train_finetune, "SEARCH", rates)
    flags = f"{FINETUNE} --valid more.csv --epochs 3"
    winner_alone = f"{flags} --learning-rate 0.01 --optimizer adamw"
    assert script("finetune", f"{flags} --search --run searched") == 0
    printed = capsys.readouterr().out
    rows = re.findall(r"^ +([\d.]+)% +(\S+)  (adamw|sgd)$", printed, flags=re.M)
    assert len(rows) == 4 and rows == sorted(rows, key=lambda row: -float(row[0]))
    assert rows[0][1:] == ("0.01", "adamw")
    result, trials = result_of("searched"), list(Path("searched", "search").iterdir())
    assert (result["learning_rate"], result["optimizer"], len(trials)) == (0.01, "adamw", 4)
    spent = [Run(trial).metrics()[-1]["tokens"] for trial in trials]
    assert result["tokens"] == sum(spent) and min(spent) > 0
    # The winner's weights are the run's; of the trials nothing is left but what they noted.
    assert script("finetune", f"{winner_alone} --run winner") == 0
    assert saved_bytes("searched")[0] in [
        (found.folder / "model.pt").read_bytes() for found in checkpoint.checkpoints(Path("winner"))
    ]
    assert {path.name for trial in trials for path in trial.iterdir()} == {"metrics.jsonl"}
    assert script("finetune", "--run searched --resume") == 0
    assert result_of("searched") == result and capsys.readouterr().out.count("trying") == 0
