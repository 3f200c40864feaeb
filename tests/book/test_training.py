"""The loop: one batch by heart, micro-batches, and nothing but (seed, step) decides."""

import functools
import math

import numpy as np
import pytest
import torch

from minilm import objectives
from minilm.config import NonFiniteError
from minilm.model import Transformer
from minilm.objectives import IGNORE, language_model_nll
from minilm.optim import make_optimizers, schedule
from minilm.training import Plan, train, train_step
from tests.book.small import FIRST, SPECIAL, make_model, random_tokens


def make_batch(name, windows):
    rng = np.random.default_rng(2)
    if name == "causal":
        return objectives.causal(windows)
    return objectives.masked(windows, 0.4, rng, SPECIAL, shift=0 if name == "masked" else 1)


def tensors(batch, rows=slice(None)):
    return torch.from_numpy(batch.inputs[rows]), torch.from_numpy(batch.targets[rows]), batch.causal


def run(model, batch, steps=1, rule="adamw", rate=0.02, clip=1.0, start=0, seed=0, **how):
    """Train on one batch; returns the losses."""
    plan = Plan(steps, warmup=0.0, cooldown=0.0, seed=seed, clip=clip)
    micro_batches = [tensors(batch)] if isinstance(batch, objectives.Batch) else batch
    loss, optimizers = (
        functools.partial(language_model_nll, model),
        optimizers_of(model, rule, rate),
    )
    steps_and_losses = train(model, loss, lambda _: micro_batches, optimizers, plan, start, **how)
    return [loss.item() for _, loss in steps_and_losses]


def optimizers_of(model, rule="adamw", rate=0.02):
    return make_optimizers(model, rule, rate, weight_decay=0.0)


@pytest.mark.parametrize("name", ["causal", "masked", "hybrid's masked"])
@pytest.mark.parametrize("rule", ["adamw", "muon"])
def test_one_batch_can_be_learnt_by_heart(name, rule):
    tokens = np.random.default_rng(8).permutation(36) + FIRST  # each says what comes next
    model = Transformer(make_model().config)
    losses = run(model, make_batch(name, tokens.reshape(4, 9)), steps=80, rule=rule)
    assert losses[0] > 3 and losses[-1] < 0.05


@pytest.mark.parametrize("name", ["causal", "masked"])
def test_micro_batches_with_unequal_numbers_of_targets_are_one_batch(name):
    batch, results = make_batch(name, random_tokens(7, 9)), []
    cuts = [slice(0, 7)], [slice(0, 1), slice(1, 3), slice(3, 7)]
    counts = {int((batch.targets[rows] != IGNORE).sum()) for rows in cuts[1]}
    assert len(counts) == 3
    for rows in cuts:
        model, micro_batches = make_model(), [tensors(batch, row) for row in rows]
        loss = functools.partial(language_model_nll, model)
        results.append((*train_step(loss, micro_batches, optimizers_of(model)), model))
    one, many = results
    by_hand, count = language_model_nll(make_model(), *tensors(batch))
    assert one[0].item() == pytest.approx((by_hand / count).item(), rel=1e-12)
    assert [x.item() for x in one[:2]] == pytest.approx([x.item() for x in many[:2]], rel=1e-12)
    for ours, theirs in zip(one[2].parameters(), many[2].parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)
        assert ours.grad is None


def test_the_gradient_is_that_of_the_mean_and_its_norm_is_clipped():
    batch, updates = make_batch("causal", random_tokens(4, 9)), {}
    for clip in (math.inf, 0.5):
        model, before = make_model(), make_model()
        loss = functools.partial(language_model_nll, model)
        sgd = [torch.optim.SGD(model.parameters(), lr=1.0)]
        _, norm = train_step(loss, [tensors(batch)], sgd, clip)
        updates[clip] = [
            old - new for old, new in zip(before.parameters(), model.parameters(), strict=True)
        ]
        loss_sum, count = language_model_nll(before, *tensors(batch))
        gradient = torch.autograd.grad(loss_sum / count, list(before.parameters()))
        length = math.sqrt(sum(g.square().sum() for g in gradient))
        assert norm.item() == pytest.approx(length, rel=1e-9) and length > 0.5
        for update, g in zip(updates[clip], gradient, strict=True):
            torch.testing.assert_close(update, g * min(1, clip / length), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_what_is_not_finite_stops_before_the_update(wrong, where):
    model, weight = make_model(), make_model().norm.weight

    def loss():
        if where == "loss":
            return model.norm.weight.sum() * 0 + wrong, torch.tensor(1)
        model.norm.weight.register_hook(lambda gradient: gradient * wrong)
        return model.norm.weight.sum(), torch.tensor(1)

    with pytest.raises(NonFiniteError, match="left as they were") as stopped:
        train_step(loss, [()], optimizers_of(model))
    assert torch.equal(model.norm.weight, weight) and stopped.value.status == 3
    train_step(loss, [()], optimizers_of(model), check=False)  # the caller's own affair


def test_a_batch_without_targets_changes_nothing_and_is_no_nan():
    model, batch = make_model(), make_batch("causal", random_tokens(2, 9))
    nothing = batch._replace(targets=np.full_like(batch.targets, IGNORE))
    assert run(model, nothing) == [0.0]
    for ours, before in zip(model.parameters(), make_model().parameters(), strict=True):
        assert torch.equal(ours, before)


def test_what_several_processes_sum_is_the_loss_the_count_and_every_gradient():
    batch = make_batch("causal", random_tokens(2, 9))
    alone, twice, seen = make_model(), make_model(), []

    def add_up(tensors):  # two processes that read the same
        seen.append(len(tensors))
        for tensor in tensors:
            tensor *= 2

    assert run(alone, batch, clip=0.1) == run(twice, batch, clip=0.1, add_up=add_up)
    assert seen == [1 + len(list(alone.parameters()))]
    for one, other in zip(alone.parameters(), twice.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_dropout_is_a_function_of_seed_step_and_rank_and_resuming_needs_the_step_alone():
    batch = make_batch("causal", random_tokens(4, 9))

    def losses(others_draw, seed=0, start=0, rate=0.0, **how):
        torch.manual_seed(others_draw)
        model = make_model(dropout=0.3).eval()  # whatever an evaluation left
        return run(model, batch, 4, rate=rate, start=start, seed=seed, **how)

    whole = losses(1)  # at a rate of 0 only dropout moves
    assert len(set(whole)) == 4 and losses(2) == whole and losses(3, start=2) == whole[2:]
    assert losses(1, seed=5) != whole != losses(1, rank=1)


def test_each_step_has_its_number_its_batch_and_its_rate():
    model, asked, rates = make_model(), [], []
    optimizers = optimizers_of(model, rate=0.1)
    batch, plan = make_batch("causal", random_tokens(2, 9)), Plan(6, 0.5, 0.5, seed=0)

    def batches(step):
        asked.append(step)
        rates.append(optimizers[0].param_groups[0]["lr"])
        return [tensors(batch)]

    loss = functools.partial(language_model_nll, model)
    steps = [step for step, _ in train(model, loss, batches, optimizers, plan, start=1)]
    assert (asked, steps) == ([1, 2, 3, 4, 5], [2, 3, 4, 5, 6])
    assert rates == [0.1 * schedule(step, 6, 0.5, 0.5) for step in range(1, 6)]
