"""Run folders: never written over, never shared by two, and never believed when damaged."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from small import everything

from minilm import durable, runs
from minilm.config import PretrainConfig, UserError
from minilm.runs import Run
from minilm.tokenizer import Tokenizer

SHAPE = dict(vocab_size=300, max_length=8, d_model=8, n_layers=1, n_heads=1, d_ff=8)
TOKENIZER = Tokenizer.train([["the cat sat on the mat"]], 260)


def make_run(folder, **flags):
    run = Run(folder)
    run.claim(resume=False)
    run.create(dict(kind="pretrain", flags=vars(PretrainConfig(**flags)), model={}), TOKENIZER)
    return run


def config_with(**changes):
    """The text of a config.json that is whole but for the changes."""
    whole = dict(format=2, kind="pretrain", flags=vars(PretrainConfig()), model={})
    return durable.seal(whole | changes)


def test_a_run_that_is_there_is_not_written_over(tmp_path):
    make_run(tmp_path)
    before = everything(tmp_path)
    with pytest.raises(UserError, match="already holds a run: continue it with --resume"):
        make_run(tmp_path)
    assert everything(tmp_path) == before


@pytest.mark.parametrize("name", ["step-00000002", "metrics.jsonl"])
def test_what_is_left_of_a_run_is_not_written_over(tmp_path, name):
    (tmp_path / "runs" / "pretrain-1" / name).mkdir(parents=True)
    with pytest.raises(UserError, match="already holds a run"):
        Run(tmp_path / "runs" / "pretrain-1").claim(resume=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert runs.new_folder("pretrain") == runs.RUNS / "pretrain-2"


def test_two_cannot_write_to_one_run(tmp_path):
    first = make_run(tmp_path)
    with pytest.raises(UserError, match="in use by another process"):
        Run(tmp_path).claim(resume=True)
    first._lock.close()
    Run(tmp_path).claim(resume=True)


def test_a_killed_process_holds_no_run(tmp_path):
    code = (
        "import sys; from minilm.runs import Run; run = Run(sys.argv[1]); "
        "run.claim(resume=False); print('claimed', flush=True); input()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with subprocess.Popen(command, cwd=Path(runs.__file__).parents[1], **pipes) as process:
        assert process.stdout.readline() == b"claimed" + os.linesep.encode()
        with pytest.raises(UserError, match="in use by another process"):
            Run(tmp_path).claim(resume=True)
        process.kill()
        process.wait()
        Run(tmp_path).claim(resume=True)


@pytest.mark.parametrize(
    "content, says",
    [
        (b"", "damaged"),
        (b'{"format": 1', "damaged"),
        (b"\xff\xfe", "damaged"),
        (b"[" * 100_000, "damaged"),
        (b"[]", "damaged"),
        (b"1", "damaged"),
        (config_with().replace(b'"seed": 0', b'"seed": 1'), "damaged"),
        (config_with(format=1), "not of format 2"),
        (config_with(format=3), "not of format 2"),
        (durable.seal({"format": 2, "kind": "pretrain"}), "damaged"),
        (config_with(model=dict(SHAPE, n_layers=2**30)), "--n-layers is 1073741824"),
        (config_with(model=dict(SHAPE, d_model=8.5)), "--d-model is 8.5"),
        (config_with(model=dict(SHAPE, d_model="8")), "--d-model is 8"),
        (config_with(model={"depth": 3}), r"damaged \(.*depth"),
        (config_with(flags={"seed": 0}), "damaged, or of another version"),
        (config_with(flags=vars(PretrainConfig()) | {"depth": 3}), "of another version"),
        (config_with(flags=vars(PretrainConfig()) | {"size": "huge"}), "--size is 'huge'"),
        (config_with(flags=vars(PretrainConfig()) | {"steps": "9"}), "--steps is '9'"),
        (config_with(flags=vars(PretrainConfig()) | {"data": "own.txt"}), "--data is 'own.txt'"),
        (config_with(flags=vars(PretrainConfig()) | {"steps": -9}), "--steps is -9"),
        (config_with(kind="finetune"), "is a finetune run"),
    ],
)
def test_a_config_that_cannot_be_used_is_named(tmp_path, content, says):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=says):
        Run(tmp_path).flags("pretrain")
        Run(tmp_path).model_config()


@pytest.mark.parametrize("name", ["nowhere", "file.txt", "empty"])
def test_what_is_no_run_is_called_no_run(tmp_path, name):
    (tmp_path / "file.txt").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=f"{name} is not a run"):
        Run(tmp_path / name).flags("pretrain")


def test_a_file_in_the_place_of_a_run_is_said(tmp_path):
    (tmp_path / "file.txt").touch()
    with pytest.raises(UserError, match=r"file\.txt"):
        Run(tmp_path / "file.txt").claim(resume=False)


def test_a_run_with_the_words_of_another_is_not_used(tmp_path):
    run = make_run(tmp_path)
    assert run.tokenizer.fingerprint == TOKENIZER.fingerprint
    Tokenizer.train([["a dog stood on the rug"]], 260).save(tmp_path / "tokenizer.json")
    with pytest.raises(UserError, match="not the words that this run was trained with"):
        _words = run.tokenizer


def test_metrics_are_cut_back_to_a_step_and_a_half_written_line_is_left_out(tmp_path):
    run = make_run(tmp_path)
    for step in (1, 2, 2, 3):
        run.log(step, loss=1 / step)
    with open(tmp_path / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"step": 4, "lo')
    assert [line["step"] for line in run.metrics()] == [1, 2, 2, 3]
    run.cut_metrics(2, scored=False)
    run.log(3, loss=7.0)
    assert [line["step"] for line in run.metrics()] == [1, 2, 2, 3]
    assert run.metrics()[-1]["loss"] == 7.0 and run.metrics()[1]["loss"] == 0.5


def test_the_newest_run_of_a_kind_is_found_and_a_new_folder_is_none_that_is_taken(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no pretrain run in runs/ yet"):
        runs.newest_run("pretrain")
    for i, name in enumerate(("pretrain-2", "own", "pretrain-1"), 1):
        make_run(runs.RUNS / name)
        os.utime(runs.RUNS / name / "config.json", (i, i))
    damaged = runs.RUNS / "pretrain-3"
    damaged.mkdir()
    (damaged / "config.json").write_text("{")
    assert runs.newest_run("pretrain") == runs.RUNS / "pretrain-1"
    assert runs.new_folder("pretrain") == runs.RUNS / "pretrain-4"
    assert runs.new_folder("finetune") == runs.RUNS / "finetune-1"
