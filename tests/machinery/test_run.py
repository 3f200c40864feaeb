"""Run folders: never written over, never shared by two, and never believed when damaged."""

import dataclasses
import json
import math
import os
import signal
import time
import types
from pathlib import Path

import pytest
import torch

from minilm.config import UserError
from minilm.heads import Classifier
from minilm.model import Transformer
from minilm.runs import checkpoint, run
from minilm.runs.run import Run, make_model, with_head
from tests.machinery.tiny import SHAPE

SPENT = dict(tokens=0, targets=0, seconds=0.0)
FACTS = dict(kind="pretrain", family="ours", model=dataclasses.asdict(SHAPE),
             flags={"objective": "causal"})  # fmt: skip
TUNED = {"max_length": 12}


@pytest.fixture(autouse=True)
def plain_tokenizers(monkeypatch):
    """tokenizer.json holds the fingerprint alone."""
    load = lambda path: types.SimpleNamespace(fingerprint=path.read_text())
    monkeypatch.setattr(run, "to_json", lambda tokenizer: tokenizer.fingerprint)
    monkeypatch.setattr(run, "load_tokenizer", load)


def make_run(folder, model=None, **changes):
    new = Run(folder)
    new.claim(resume=False)
    new.create(FACTS | changes, types.SimpleNamespace(fingerprint="abc"))
    new.release()
    if model:
        checkpoint.save(folder, 1, SPENT, model=model.state_dict())
    return new


def everything(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("left", ["config.json", "metrics.jsonl", "step-00000002.pt"])
def test_what_is_left_of_a_run_is_not_written_over(tmp_path, monkeypatch, left):
    monkeypatch.chdir(tmp_path)
    folder = run.new_folder("pretrain")
    assert folder == Path("runs", "pretrain-1")
    (folder / left).mkdir(parents=True)
    with pytest.raises(UserError, match="already holds a run: continue it with --resume"):
        Run(folder).claim(resume=False)
    assert run.new_folder("pretrain") == Path("runs", "pretrain-2")


@pytest.mark.parametrize("third", [False, True])
def test_who_waited_for_a_folder_that_a_failed_start_removes_looks_again(
    tmp_path, monkeypatch, third
):
    folder, flock = tmp_path / "run", run.fcntl.flock
    first, second = (Run(folder) for _ in range(2))
    first.claim(resume=False)

    def first_goes(file, how):  # between the second's opening of the lock and its locking
        monkeypatch.undo()
        first.release()
        assert not folder.exists()
        if third:  # process makes it anew, and a lock that is not the one that was opened
            folder.mkdir()
            (folder / "lock").touch()
        flock(file, how)

    monkeypatch.setattr(run.fcntl, "flock", first_goes)
    with second.claim(resume=False), pytest.raises(UserError, match="in use"):
        Run(folder).claim(resume=False)
    assert not folder.exists()


@pytest.mark.filterwarnings("ignore:.*fork")  # of a process that has threads
def test_only_one_process_holds_a_run_until_it_is_killed(tmp_path):
    said, say = os.pipe()
    if not (child := os.fork()):
        try:
            _held = Run(tmp_path).claim(resume=False)
            os.write(say, b"claimed")
            time.sleep(60)
        finally:
            os._exit(1)
    assert os.read(said, 7) == b"claimed"
    with pytest.raises(UserError, match="in use by another process"):
        Run(tmp_path).claim(resume=False)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    Run(tmp_path).claim(resume=False)


def test_a_failed_start_leaves_no_folder_and_what_is_no_run_is_called_no_run(tmp_path):
    with Run(tmp_path / "run").claim(resume=False):
        assert (tmp_path / "run").exists()
    (tmp_path / "file").touch()
    for name in ("nowhere", "file", "run"):
        with pytest.raises(UserError, match="is not a run"):
            Run(tmp_path / name).claim(resume=True)
    with pytest.raises(UserError, match="cannot be written to"):
        Run(tmp_path / "file").claim(resume=False)
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("changes, says", [
    (b"", "damaged"), (b"[" * 100_000, "damaged"), (b"[1]", "damaged"),
    (dict(format=run.FORMAT - 1), "format 3, that of another version.*reads 4: train the run anew"),
    (dict(flags={}), "flags is missing"), (dict(family="other"), "family 'other'"),
    (dict(train_tokens="9"), "train_tokens is missing, or not"), (dict(kind=[]), "kind is missing"),
    (dict(kind="finetune", flags=TUNED), "classes is missing"),
    (dict(kind="finetune", flags=TUNED, classes=["a"]), "this needs a pretrain run"),
    (dict(model=FACTS["model"] | dict(n_layers=20_000)), "does not fit the shape"),
    (dict(model=FACTS["model"] | dict(n_heads=3)), "divide into n_heads 3 heads"),
    (dict(model=FACTS["model"] | dict(depth=3)), "damaged.*depth"),
    (dict(id="another"), "written by another run"),
])  # fmt: skip
def test_a_config_that_cannot_be_used_is_refused_before_anything_is_built(
    tmp_path, monkeypatch, changes, says
):
    make_run(tmp_path, Transformer(SHAPE))
    path = tmp_path / "config.json"
    config = json.loads(path.read_bytes())
    bad = changes if isinstance(changes, bytes) else json.dumps(config | changes).encode()
    path.write_bytes(bad)
    if b"20000" in bad:
        monkeypatch.setattr(run, "make_model", lambda *_, **__: pytest.fail("it is built"))
    with pytest.raises(UserError, match=says):
        Run(tmp_path).transformer()


def test_a_result_is_read_once_the_run_is_finished_and_never_from_a_pipe(tmp_path):
    made = make_run(tmp_path)
    assert made.result == {}
    made.finish({"loss": 1.5})
    assert made.result == {"loss": 1.5}
    (tmp_path / "result.json").unlink()
    os.mkfifo(tmp_path / "result.json")
    with pytest.raises(UserError, match="no regular file"):
        _ = made.result


def test_models_are_float32_whatever_the_default_of_torch_and_move_no_generator():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    torch.set_default_dtype(torch.float64)
    try:
        head = with_head(make_model(SHAPE), dict(task="classify"), 3).eval()
        hidden = head(torch.arange(6)[None], torch.ones(1, 6, dtype=torch.bool))
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.rand(3), expected)
    assert {t.dtype for t in (hidden, *head.state_dict().values())} == {torch.float32}


def test_the_tokenizer_is_the_one_that_the_run_began_with(tmp_path):
    made = make_run(tmp_path)
    assert made.tokenizer.fingerprint == "abc"
    (tmp_path / "tokenizer.json").write_text("abd")
    with pytest.raises(UserError, match="not the tokenizer that this run was trained with"):
        _ = made.tokenizer


def test_models_come_with_the_best_weights_and_in_a_longer_window(tmp_path, monkeypatch):
    model, classifier = Transformer(SHAPE, seed=1), Classifier(Transformer(SHAPE, seed=2), 3)
    found = make_run(tmp_path / "a", model).transformer(max_length=99)
    assert found.config.max_length == 99 and torch.equal(
        found.embedding.weight, model.embedding.weight
    )
    facts = dict(kind="finetune", classes=["a", "b", "c"], flags=TUNED)
    finetuned = make_run(tmp_path / "b", classifier, **facts)
    found = finetuned.classifier()
    assert found.head.weight.shape == (3, 16)
    assert torch.equal(found.transformer.embedding.weight, classifier.transformer.embedding.weight)
    config = json.dumps(finetuned.config | dict(classes=["a"] * 10_000))
    (finetuned.folder / "config.json").write_text(config)
    monkeypatch.setattr(run, "make_model", lambda *_, **__: pytest.fail("it is built"))
    with pytest.raises(UserError, match="does not fit the shape"):
        finetuned.classifier()


def test_metrics_end_before_what_is_damaged_and_are_cut_back_to_a_step(tmp_path, capsys):
    made, path = Run(tmp_path), tmp_path / "metrics.jsonl"
    assert made.metrics() == []
    for bad in (b"\0", b"[]", b'{"step": "2", "loss": 1}', b'{"step": 2}', b"\xff",
                b'{"step": 2, "loss": 1, "x": NaN}'):  # fmt: skip
        path.write_bytes(b'{"step": 1, "loss": 2.0}\n' + bad + b'\n{"step": 3, "loss": 2}\n')
        assert made.metrics() == [{"step": 1, "loss": 2.0}]
        assert "metrics.jsonl is damaged from line 2 on" in capsys.readouterr().err
    path.write_bytes(b'{"step": 1, "loss": 1}\n{"st')  # what a kill leaves
    assert made.metrics() == [{"step": 1, "loss": 1}] and not capsys.readouterr().err
    made.cut_metrics(1, scored=True)
    made.log(2, loss=0.5)
    made.log(2, score=0.5)
    made.cut_metrics(2, scored=False)
    assert made.metrics() == [{"step": 1, "loss": 1}, {"step": 2, "loss": 0.5}]
    with pytest.raises(ValueError, match="not JSON compliant"):
        made.log(3, loss=math.nan)


def test_the_newest_run_of_a_kind_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no pretrain run in runs/ yet"):
        run.newest_run("pretrain")
    for i, name in enumerate(("2", "own", "1", "damaged", "other"), 1):
        kind = dict(kind="finetune", classes=[], flags=TUNED) if name == "other" else {}
        make_run(run.RUNS / name, **kind)
        os.utime(run.RUNS / name / "config.json", (i, i))
    (run.RUNS / "damaged" / "config.json").write_text("{")
    assert run.newest_run("pretrain") == run.RUNS / "1"
    assert run.newest_run("finetune") == run.RUNS / "other"
