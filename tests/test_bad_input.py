"""Whatever a person can get wrong is answered in one line, and nothing is written over."""

import shutil
from pathlib import Path

import pytest
import torch
from small import FINETUNE, PRETRAIN, everything, script, some_rows, write_table

from minilm import checkpoint, device, durable, runs
from minilm.device import Machine
from minilm.runs import Run

pytestmark = pytest.mark.usefixtures("small_world")

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
}


@pytest.fixture(scope="module", autouse=True)
def bad_files(small_home):
    for name, content in FILES.items():
        (small_home / name).write_bytes(content)
    locked = Run(small_home / "locked")
    locked.claim(resume=False)
    yield
    locked._lock.close()


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
        ("pretrain", "--vocab-size 297 --init first --d-model 64", "--d-model 64: the weights"),
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


def test_fine_tuning_in_several_processes_is_refused(monkeypatch, capfd):
    two = Machine(torch.device("cpu"), False, "", rank=0, world=2)
    monkeypatch.setattr(device, "choose_machine", lambda *_: two)
    assert script("finetune", f"{FINETUNE} --run two") == 2
    assert "without torchrun" in capfd.readouterr().err and not Path("two").exists()


def test_a_pretraining_run_without_weights_is_refused_before_another_is_begun(tmp_path, capfd):
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(Path("first", name), tmp_path)
    assert script("finetune", f"{FINETUNE} --pretrained {tmp_path} --run unbegun") == 2
    assert "holds no whole checkpoint" in capfd.readouterr().err and not Path("unbegun").exists()


def test_weights_of_another_shape_than_the_config_says_are_refused(tmp_path, capfd):
    run = shutil.copytree("first", tmp_path / "run")
    changed = durable.unseal(run / "config.json")
    changed["model"]["d_ff"] += 2
    (run / "config.json").write_bytes(durable.seal(changed))
    assert script("finetune", f"{FINETUNE} --pretrained {run} --run {tmp_path}/tuned") == 2
    error = capfd.readouterr().err
    assert "do not have the shape that config.json says" in error and error.count("\n") == 1


def test_a_learning_rate_that_explodes_is_stopped_and_never_saved(capfd):
    flags = f"{PRETRAIN} --learning-rate 1e30 --steps 20 --evaluations 20 --run exploded"
    assert script("pretrain", flags) == 3
    error = capfd.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    for found in checkpoint.checkpoints(Path("exploded")):
        assert all(torch.isfinite(weight).all() for weight in found.read("model").values())
    assert not Path("exploded", "result.json").exists()
