"""The loop: what it computes does not depend on how a step is cut up, on who looks on the way, or
on where it was interrupted."""

import dataclasses
import math
import signal

import numpy as np
import pytest
import torch
from torch import nn

from minilm import checkpoint, training
from minilm.config import ModelConfig, NonFiniteError, PretrainConfig, UserError
from minilm.device import Machine
from minilm.evaluation import evaluate_language_model
from minilm.model import Transformer
from minilm.objectives import IGNORE, Objective
from minilm.runs import Run
from minilm.tokenizer import N_SPECIAL
from minilm.training import (
    Plan,
    StepBatch,
    Stopped,
    Trainer,
    language_model_trainer,
    share_out,
    train,
)

V, T, BATCH = 40, 12, 8
MACHINE = Machine(torch.device("cpu"), bfloat16=False, why="a test")
SHAPE = ModelConfig(V, T, d_model=16, n_layers=2, n_heads=2, d_ff=24, dropout=0.1)


def windows(step, n=BATCH):
    return np.random.default_rng([step]).integers(N_SPECIAL, V, (n, T + 1))


def make_trainer(
    objective="hybrid", model=None, before=lambda step: None, machine=MACHINE, **flags
):
    """The trainer of train_pretrain.py on random words; before(step) is called at every step."""
    flags = dict(steps=8, evaluations=4, learning_rate=0.01, optimizer="muon") | flags
    config = PretrainConfig(objective=objective, batch_size=BATCH, max_length=T, **flags)
    rule = Objective(objective, V, seed=0)

    def task(step):
        before(step)
        return rule.task(windows(step), step, rate=0.3)

    return language_model_trainer(config, model or Transformer(SHAPE), task, machine)


def look(trainer):
    """An evaluate() that measures as train_pretrain.py does."""

    def evaluate():
        objective = Objective("hybrid", V, seed=0)
        texts = windows(1000, 4)
        model = trainer.loss.model
        values = evaluate_language_model(model, objective, texts, MACHINE, np.ones(V, int))
        return values["causal_loss"], values, ""

    return evaluate


def weights_of(trainer):
    return [p.detach().clone() for p in trainer.model.parameters()]


def equal(some, others):
    return all(torch.equal(a, b) for a, b in zip(some, others, strict=True))


def lines_without_times(run):
    return [{k: v for k, v in line.items() if k != "seconds"} for line in run.metrics()]


@pytest.mark.parametrize("objective", ["causal", "masked", "hybrid"])
def test_micro_batches_give_the_weights_that_whole_batches_give(make_model, objective):
    def trained(accumulate):
        model = make_model(vocab_size=V)
        trainer = make_trainer(objective, model, accumulate=accumulate)
        means = [trainer.step(step)[0] for step in range(4)]
        return means, weights_of(trainer), trainer.batch(3)

    whole_means, whole, _ = trained(1)
    for accumulate in (2, 3, 4):
        means, weights, batch = trained(accumulate)
        assert len(batch.micro_batches) == accumulate
        if objective == "masked":
            assert len({(targets != IGNORE).sum() for _, targets, _ in batch.micro_batches}) > 1
        assert means == pytest.approx(whole_means, rel=1e-10)
        for a, b in zip(weights, whole, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("world, accumulate, rows", [(1, 1, 8), (1, 3, 8), (2, 2, 7), (3, 4, 5)])
def test_every_row_goes_to_one_micro_batch_of_one_process_with_what_belongs_to_it(
    world, accumulate, rows
):
    batch = np.arange(rows), 10 * np.arange(rows)
    parts = []
    for rank in range(world):
        machine = Machine(MACHINE.device, False, "", rank, world)
        parts += share_out(batch, machine, accumulate)
    assert sorted(np.concatenate([a for a, _ in parts])) == list(range(rows))
    assert all(len(a) and (b == 10 * a).all() for a, b in parts)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_mean_of_the_gradients_of_all_processes_is_that_of_the_whole_batch(
    make_model, monkeypatch, accumulate
):
    monkeypatch.setattr(training, "DistributedDataParallel", lambda loss: loss)
    monkeypatch.setattr(Machine, "total", lambda machine, *values: list(values))
    found = []

    def loss_of(rank, world):
        machine, model = Machine(MACHINE.device, False, "", rank, world), make_model(vocab_size=V)
        trainer = make_trainer("masked", model, machine=machine, accumulate=accumulate)
        trainer.plan = dataclasses.replace(trainer.plan, clip=math.inf)
        optimizer = torch.optim.SGD([dict(params=list(model.parameters()), peak=0.0)])
        optimizer.step = lambda: found.append([p.grad.clone() for p in model.parameters()])
        trainer.optimizers = [optimizer]
        return trainer.step(0)[0]

    assert loss_of(0, 1) == pytest.approx(loss_of(0, 2) + loss_of(1, 2), rel=1e-12)
    for whole, first, second in zip(*found, strict=True):
        torch.testing.assert_close((first + second) / 2, whole, rtol=1e-9, atol=1e-12)


def test_a_batch_smaller_than_the_number_of_processes_is_refused():
    with pytest.raises(UserError, match="batch of 2 cannot be shared by 3 processes"):
        share_out((np.arange(2),), Machine(MACHINE.device, False, "", 0, 3), 1)


class OneWeight(nn.Module):
    """A loss that is `formula` of one weight, which is 0 at first."""

    def __init__(self, formula):
        super().__init__()
        self.w, self.formula = nn.Parameter(torch.zeros(1)), formula

    def forward(self, row):
        return self.formula(self.w).sum(), 1


@pytest.mark.parametrize(
    "formula",
    [
        pytest.param(lambda w: w / 0, id="the loss is not a number"),
        pytest.param(lambda w: w + math.inf, id="the loss is infinite"),
        pytest.param(lambda w: w.sqrt(), id="the gradient is infinite"),
        pytest.param(lambda w: w.abs().sqrt(), id="the gradient is not a number"),
    ],
)
def test_what_is_not_finite_stops_before_any_weight_changes(formula):
    loss = OneWeight(formula)
    optimizer = torch.optim.AdamW([dict(params=[loss.w], peak=0.1)])
    batch = StepBatch([(np.zeros(1),)], 1, 1)
    plan = Plan(10, 0, 0, 10, seed=0)
    trainer = Trainer(loss, loss, [optimizer], lambda step: batch, plan, MACHINE)
    with pytest.raises(NonFiniteError, match=r"step 5: .* --learning-rate") as caught:
        trainer.step(4)
    assert loss.w.item() == 0 and not optimizer.state and caught.value.status == 3


def test_dropout_does_not_depend_on_what_else_drew_random_numbers():
    def disturb(step):
        torch.rand(step + 1)
        np.random.rand(step + 1)

    quiet, disturbed = make_trainer(), make_trainer(before=disturb)
    for step in range(3):
        assert quiet.step(step)[0] == disturbed.step(step)[0]
    assert equal(weights_of(quiet), weights_of(disturbed))


def test_dropout_differs_between_steps_and_is_off_while_evaluating():
    trainer = make_trainer(learning_rate=1e-30)  # the weights stay as they are
    batch = trainer.batch(0)
    trainer.batch = lambda step: batch
    for parameter in trainer.model.parameters():
        parameter.data.normal_(0, 0.5, generator=torch.Generator().manual_seed(1))
    assert trainer.step(0)[0] != trainer.step(1)[0]
    assert look(trainer)() == look(trainer)()


def test_dropout_differs_between_processes(monkeypatch):
    seeds = []
    monkeypatch.setattr(training, "DistributedDataParallel", lambda loss: loss)
    monkeypatch.setattr(Machine, "total", lambda machine, *values: list(values))
    for rank in (0, 1):
        trainer = make_trainer(machine=Machine(MACHINE.device, False, "", rank, 2))
        with monkeypatch.context() as now:
            now.setattr(torch, "manual_seed", seeds.append)
            for step in range(3):
                trainer.step(step)
    assert len(set(seeds)) == len(seeds) == 6


def test_looking_does_not_change_what_is_learnt(tmp_path):
    trained = []
    for name, evaluations in (("never", 1), ("always", 8)):
        (tmp_path / name).mkdir()
        trainer, run = make_trainer(evaluations=evaluations), Run(tmp_path / name)
        train(trainer, run, look(trainer))
        losses = [line["loss"] for line in run.metrics() if "loss" in line]
        trained.append((losses, weights_of(trainer)))
        assert sum("score" in line for line in run.metrics()) == evaluations
    assert trained[0][0] == trained[1][0] and equal(trained[0][1], trained[1][1])


def test_interrupted_after_every_step_a_run_ends_as_if_it_had_never_been(tmp_path):
    for name in ("whole", "interrupted"):
        (tmp_path / name).mkdir()
    whole, run = make_trainer(accumulate=2), Run(tmp_path / "whole")
    spent = train(whole, run, look(whole))

    for step in range(8):
        interrupted = make_trainer(
            accumulate=2,
            before=lambda now, at=step: now == at and signal.raise_signal(signal.SIGINT),
        )
        with pytest.raises(Stopped):
            train(interrupted, Run(tmp_path / "interrupted"), look(interrupted))
    interrupted, again = make_trainer(accumulate=2), Run(tmp_path / "interrupted")
    spent_again = train(interrupted, again, look(interrupted))

    assert equal(weights_of(whole), weights_of(interrupted))
    for name in ("model.pt", "optimizers.pt"):
        files = [(checkpoint.newest(r.folder).folder / name).read_bytes() for r in (run, again)]
        assert files[0] == files[1]
    assert lines_without_times(run) == lines_without_times(again)
    assert spent | {"seconds": 0} == spent_again | {"seconds": 0}
    assert spent["tokens"] == 8 * BATCH * T


def test_killed_between_two_checkpoints_a_run_ends_as_if_it_had_never_been(tmp_path):
    def fall(step):
        if step == 7:
            raise MemoryError

    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    trainer, run = make_trainer(), Run(tmp_path / "whole")
    train(trainer, run, look(trainer))
    killed, again = make_trainer(before=fall), Run(tmp_path / "killed")
    with pytest.raises(MemoryError):
        train(killed, again, look(killed))
    assert checkpoint.newest(again.folder).step == 6 and again.metrics()[-1]["step"] == 7
    killed = make_trainer()
    train(killed, again, look(killed))
    assert equal(weights_of(trainer), weights_of(killed))
    assert lines_without_times(run) == lines_without_times(again)


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_says_how_to_go_on(tmp_path, number, status):
    handler = signal.getsignal(number)
    trainer = make_trainer(before=lambda step: step == 2 and signal.raise_signal(number))
    with pytest.raises(Stopped, match=r"stopped at step 3, .* --resume") as caught:
        train(trainer, Run(tmp_path), look(trainer))
    assert caught.value.status == status and f"--run {tmp_path} --resume" in str(caught.value)
    assert checkpoint.newest(tmp_path).step == 3 and signal.getsignal(number) == handler


def test_patience_ends_a_run_that_gets_no_better_and_its_best_checkpoint_is_kept(tmp_path, capsys):
    def trained(scores):
        trainer = make_trainer(steps=16, evaluations=8)
        train(trainer, Run(tmp_path), lambda: (next(scores), {}, ""), patience=3)

    scores = iter([3.0, 2.0, 2.5, 2.0, 2.6, 1.0])
    trained(scores)
    assert next(scores) == 1.0 and "stopping early" in capsys.readouterr().out
    assert checkpoint.newest(tmp_path).step == 10 and checkpoint.best(tmp_path).score == 2.0
    trained(iter([]))  # nor does it go on when resumed
    assert "stopping early" in capsys.readouterr().out


def test_a_better_score_earns_patience_anew(tmp_path):
    scores = iter([3.0, 4.0, 2.0, 4.0, 1.0, 4.0])
    trainer = make_trainer(steps=6, evaluations=6)
    train(trainer, Run(tmp_path), lambda: (next(scores), {}, ""), patience=2)
    assert checkpoint.newest(tmp_path).step == 6 and checkpoint.best(tmp_path).step == 5
