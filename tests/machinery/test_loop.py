"""What is wrapped around the book's loop: logging, evaluating, stopping early, and what is not
finite. That it can be interrupted: test_resume.py."""

import json
import math
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from minilm.config import NonFiniteError, UserError
from minilm.runs import checkpoint, loop
from minilm.runs.device import Machine
from minilm.runs.loop import summary
from minilm.runs.progress import Progress
from minilm.runs.run import FORMAT, Run
from tests.machinery.tiny import SHAPE, Training, saved


def scores(*values):
    """An evaluation that says one after the other."""
    left = list(values)
    return lambda: (left.pop(0), {})


def test_a_run_notes_its_losses_its_scores_and_what_it_has_spent(tmp_path):
    spent = Training("causal", every=4).run(tmp_path)
    lines = Run(tmp_path).metrics()
    assert [(line["step"], "score" in line) for line in lines] == [
        *((s, False) for s in range(1, 5)), (4, True), *((s, False) for s in range(5, 9)), (8, True)
    ]  # fmt: skip
    last = checkpoint.best(tmp_path)
    assert lines[-1]["half"] == last.values["half"] == lines[-1]["score"] / 2 == last.score / 2
    assert spent["tokens"] == spent["targets"] == lines[-1]["tokens"] == 8 * 6 * 12
    assert spent["seconds"] > 0 and lines[0]["loss"] == pytest.approx(math.log(40), abs=0.1)


def test_reading_the_loss_now_and_then_changes_nothing_but_the_noted_lines(tmp_path, monkeypatch):
    Training(every=4).run(tmp_path / "always")
    monkeypatch.setattr(loop, "READ_EVERY", {"cpu": 3})
    Training(every=4).run(tmp_path / "seldom")
    bits, always, *notes = saved(tmp_path / "always")
    same, seldom, *also = saved(tmp_path / "seldom")
    assert bits == same and notes == also
    assert seldom == [line for line in always if "score" in line or line["step"] in (3, 6)]


def test_early_stopping_waits_for_patience_evaluations_also_after_a_resume(tmp_path):
    training = Training(steps=20, evaluate=scores(5, 3, 4, 3.5, 2, 2.5), patience=2)
    training.run(tmp_path)
    assert checkpoint.newest(tmp_path).step == 8 and checkpoint.best(tmp_path).step == 4
    Training(steps=20, evaluate=scores(), patience=2).run(tmp_path)
    Training(steps=20, evaluate=scores(2.9, 3, 3, 3), patience=3).run(tmp_path)
    found = [score for _, score in checkpoint.newest(tmp_path).scores]
    assert found == [5, 3, 4, 3.5, 2.9, 3, 3, 3]


def test_the_checkpoint_that_will_be_used_is_reported_with_its_step_and_scores(tmp_path):
    facts = dict(format=FORMAT, id="a", kind="pretrain", family="ours", model=vars(SHAPE),
                 flags={"objective": "causal"}, tokenizer="", train_tokens=200)  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(facts))
    run, training = Run(tmp_path), Training(evaluate=scores(3, 2, 2.5, 2.25))
    training.run(tmp_path)
    used, last, said = summary(run)
    assert (used.step, used.score, last) == (4, 2, 8)
    for words in ("step 4 of 8", "read 2.9 times", "worse since step 4"):
        assert words in said
    at_8 = checkpoint.newest(tmp_path)
    checkpoint.save(tmp_path, 8, at_8.spent, [*at_8.scores[:-1], [8, 1.0]], {"loss": 1.0})
    assert "loss 1.000" in summary(run)[2] and "worse" not in summary(run)[2]


def test_nothing_that_only_shows_ends_a_training(tmp_path, monkeypatch, capsys):
    def show():
        raise IndexError("no such token")

    def page(run):
        pages.append(checkpoint.newest(run.folder).step)
        raise OSError("no room")

    pages = []
    loop.train(Training(show=show), Run(tmp_path), page)
    assert "no sample: IndexError: no such token" in capsys.readouterr().out
    assert pages == [2, 4, 6, 8]  # one after each evaluation

    class Closed:
        def write(self, text):
            raise BrokenPipeError

        encoding, isatty = "utf-8", lambda self: terminal
        flush = lambda self: self.write("")

    made, keep = [], lambda *how, **more: made.append(Progress(*how, **more)) or made[-1]
    for terminal in (False, True):
        with monkeypatch.context() as patch:
            for name in ("stdout", "stderr"):
                patch.setattr(sys, name, Closed())
            patch.setattr(loop, "Progress", keep)
            Training().run(tmp_path / str(terminal))
        assert saved(tmp_path / str(terminal))[0] == saved(tmp_path)[0] and not made[-1].shown


def test_a_training_in_a_thread_leaves_the_generators_of_its_process_alone(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    training = Training()
    torch.manual_seed(5)
    thread = threading.Thread(target=training.run, args=[tmp_path / "thread"])
    thread.start()
    thread.join()
    assert torch.equal(torch.rand(3), expected)
    Training().run(tmp_path / "here")
    assert saved(tmp_path / "thread") == saved(tmp_path / "here")


# What is not finite


def poison(training, where, value):
    weights = list(training.model.parameters())
    if where == "weight":
        weights[0].data[5, 3] = value
    elif where == "gradient":
        handle = weights[1].register_hook(lambda g: (handle.remove(), g * value)[1])
    elif where == "loss":
        loss = training.formula
        training.loss.formula = lambda *batch: (loss(*batch)[0] * value, loss(*batch)[1])
    else:
        next(iter(training.optimizers[0].state.values()))["exp_avg"][0] = value


@pytest.mark.parametrize("every", [1, 3], ids=["read always", "read seldom"])
@pytest.mark.parametrize("where, value", [
    ("loss", math.nan), ("gradient", math.inf), ("weight", math.nan), ("optimizer", math.inf),
])  # fmt: skip
def test_what_is_not_finite_reaches_no_file(tmp_path, monkeypatch, where, value, every):
    monkeypatch.setattr(loop, "READ_EVERY", {"cpu": every} if every > 1 else {})
    training = Training(steps=12, every=4, optimizer="adamw")
    training.before = lambda step: step == 5 and poison(training, where, value)
    with pytest.raises(NonFiniteError) as caught:
        training.run(tmp_path)
    good = checkpoint.newest(tmp_path)
    assert good.step == 4 and good.score is not None and caught.value.status == 3
    last = f"the last good checkpoint is {good.file}"
    for words in ("after step ", "learning rate was 0.0", last):
        assert words in str(caught.value)
    if where == "loss":
        assert f"the loss is {value}" in str(caught.value)
    text = (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in text and "Infinity" not in text


def test_good_is_a_checkpoint_that_was_evaluated_and_resume_starts_from_it(tmp_path):
    training = Training(evaluate=scores(3, math.inf))
    with pytest.raises(NonFiniteError, match=r"last good checkpoint is .*step-00000002"):
        training.run(tmp_path)
    assert checkpoint.newest(tmp_path).step == 2
    taken = []
    Training(before=taken.append).run(tmp_path)
    assert taken == [2, 3, 4, 5, 6, 7]
    with pytest.raises(NonFiniteError, match="last good checkpoint is none yet"):
        Training(evaluate=scores(math.nan)).run(tmp_path / "other")
    assert not list(Path(tmp_path, "other").glob("step-*"))


# Several processes


@pytest.mark.parametrize("world, accumulate, rows", [(1, 1, 8), (1, 3, 8), (2, 2, 7), (3, 4, 5)])
def test_every_row_goes_to_one_micro_batch_of_one_process(world, accumulate, rows):
    batch, parts = (np.arange(rows), 10 * np.arange(rows), True), []
    for rank in range(world):
        machine = Machine(torch.device("cpu"), rank=rank, world=world)
        parts += machine.share_out(batch, accumulate)
    assert sorted(np.concatenate([a for a, *_ in parts])) == list(range(rows))
    assert all(len(a) and (b == 10 * a).all() and c is True for a, b, c in parts)


def test_a_batch_smaller_than_the_number_of_processes_is_refused():
    with pytest.raises(UserError, match="batch of 2 cannot be shared by 3 processes"):
        Machine(torch.device("cpu"), world=3).share_out((np.arange(2),), 1)
