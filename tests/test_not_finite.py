"""NaN and infinity, wherever they arise, stop a run before they reach a file."""

import math

import pytest
import torch
from small import FINETUNE, PRETRAIN, script
from test_training import Run, look, make_trainer, train

from minilm import checkpoint
from minilm.config import NonFiniteError


def poison(where, value):
    """Something to do at a step, so that `where` holds a value that is not finite."""

    def at(trainer):
        weights = list(trainer.model.parameters())
        if where == "one weight":
            weights[0].data[5, 3] = value
        elif where == "one gradient":
            handle = weights[1].register_hook(lambda g: (handle.remove(), g.index_fill(
                0, torch.tensor([0]), value))[1])  # fmt: skip
        elif where == "the loss":
            forward = trainer.loss.forward
            trainer.loss.forward = lambda *b: (forward(*b)[0] * value, 1)
        else:
            state = next(iter(trainer.optimizers[0].state.values()))
            state["exp_avg"][0] = value

    return at


@pytest.mark.parametrize("where", ["the loss", "one gradient", "one weight", "the optimizer"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("step", [4, *(pytest.param(s, marks=pytest.mark.slow)
                                       for s in range(1, 21) if s != 4)])  # fmt: skip
def test_what_is_not_finite_reaches_no_file(tmp_path, where, value, step):
    trainers = []

    def before(now):
        if now == step:
            poison(where, value)(trainers[0])

    flags = dict(steps=24, evaluations=24, optimizer="adamw", learning_rate=0.0123)
    trainers.append(make_trainer(before=before, **flags))
    with pytest.raises(NonFiniteError) as caught:
        train(trainers[0], Run(tmp_path), look(trainers[0]))
    assert caught.value.status == 3
    message = str(caught.value)
    good = checkpoint.newest(tmp_path)
    assert f"step {step + 1}" in message and f"the last good checkpoint is {good.folder}" in message
    assert "learning rate was 0.0" in message and "\n" not in message
    assert good.step == step
    for weight in good.read("model").values():
        assert torch.isfinite(weight).all()
    for line in Run(tmp_path).metrics():
        assert all(math.isfinite(v) for v in line.values())


@pytest.mark.parametrize("name", ["pretrain", "finetune"])
def test_a_learning_rate_far_too_high_ends_with_status_3_and_finite_files(
    small_world, tmp_path, capfd, name
):
    common = {"pretrain": f"{PRETRAIN} --steps 30 --evaluations 30", "finetune": FINETUNE}[name]
    flags = f"{common} --learning-rate 1e30 --optimizer adamw --run {tmp_path}/run"
    assert script(name, flags) == 3
    error = capfd.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    for words in ("step ", "learning rate was", "last good checkpoint is", "--learning-rate"):
        assert words in error
    for found in checkpoint.checkpoints(tmp_path / "run"):
        assert all(torch.isfinite(w).all() for w in found.read("model").values())
    text = (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8")
    assert "NaN" not in text and "Infinity" not in text
