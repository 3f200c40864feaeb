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
    if name == "causal":
        return objectives.causal(windows)
    return objectives.masked(windows, 0.4, np.random.default_rng(2), SPECIAL, name != "masked")


def tensors(batch, rows=slice(None)):
    return torch.from_numpy(batch.inputs[rows]), torch.from_numpy(batch.targets[rows]), batch.causal


def optimizers_of(model, rule="adamw", rate=0.02):
    return make_optimizers(model, rule, rate, weight_decay=0.0)


def run(model, batch, steps=1, seed=0, clip=1.0, rule="adamw", rate=0.02, **how):
    """Train on one batch; returns the losses."""
    plan, loss = Plan(steps, 0.0, 0.0, seed, clip), functools.partial(language_model_nll, model)
    optimizers = optimizers_of(model, rule, rate)
    trained = train(model, loss, lambda step: [tensors(batch)], optimizers, plan, **how)
    return [loss.item() for _, loss in trained]


def assert_equal_weights(ours, theirs):
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["causal", "masked", "hybrid's masked"])
@pytest.mark.parametrize("rule", ["adamw", "muon"])
def test_one_batch_can_be_learnt_by_heart(name, rule):
    tokens = np.random.default_rng(8).permutation(36) + FIRST  # each says what comes next
    model = Transformer(make_model().config)
    losses = run(model, make_batch(name, tokens.reshape(4, 9)), steps=60, rule=rule)
    assert losses[0] > 3 and losses[-1] < 0.05


@pytest.mark.parametrize("name", ["causal", "masked"])
def test_micro_batches_with_unequal_numbers_of_targets_are_one_batch(name):
    batch, results = make_batch(name, random_tokens(7, 9)), []
    for rows in ([slice(0, 7)], [slice(0, 1), slice(1, 3), slice(3, 7)]):
        model, micro_batches = make_model(), [tensors(batch, part) for part in rows]
        loss = functools.partial(language_model_nll, model)
        results.append((model, *train_step(loss, micro_batches, optimizers_of(model))))
    (one, *values), (many, *others) = results
    assert len({int((targets != IGNORE).sum()) for _, targets, _ in micro_batches}) == 3
    by_hand, count = language_model_nll(make_model(), *tensors(batch))
    assert values[0].item() == pytest.approx((by_hand / count).item(), rel=1e-12)
    assert [x.item() for x in values] == pytest.approx([x.item() for x in others], rel=1e-12)
    assert_equal_weights(one, many)
    assert not torch.equal(one.norm.weight, make_model().norm.weight)


@pytest.mark.parametrize(("clip", "shape"), [(math.inf, (1, 2)), (9e9, (4, 9)), (0.5, (4, 9))])
def test_the_gradient_is_that_of_the_mean_and_its_norm_is_clipped(clip, shape):
    batch, model, before = make_batch("causal", random_tokens(*shape)), make_model(), make_model()
    sgd = [torch.optim.SGD(model.parameters(), lr=1.0)]
    loss = functools.partial(language_model_nll, model)
    mean, norm = train_step(loss, [tensors(batch)], sgd, clip)
    loss_sum, count = language_model_nll(before, *tensors(batch))
    assert mean.item() == pytest.approx((loss_sum / count).item(), rel=1e-12)
    (loss_sum / count).backward()
    length = math.sqrt(sum(p.grad.square().sum() for p in before.parameters()))
    assert norm.item() == pytest.approx(length, rel=1e-9) and length > 1
    for p in before.parameters():
        p.data -= p.grad * min(1, clip / (length + 1e-6))
    assert_equal_weights(model, before)
    assert all(p.grad is None for p in model.parameters())  # the next step starts from nothing


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_what_is_not_finite_stops_before_the_update(wrong, where):
    model = make_model()

    def loss():
        if where == "loss":
            return model.norm.weight.sum() * 0 + wrong, torch.tensor(1)
        model.norm.weight.register_hook(lambda gradient: gradient * wrong)
        return model.norm.weight.sum(), torch.tensor(1)

    with pytest.raises(NonFiniteError, match="left as they were"):
        train_step(loss, [()], optimizers_of(model))
    assert_equal_weights(model, make_model())
    assert all(p.grad is None for p in model.parameters())  # nor does the next step begin with it
    train_step(loss, [()], optimizers_of(model), check=False)  # the caller's own affair


def test_a_batch_without_targets_changes_nothing_and_is_no_nan():
    model, batch = make_model(), make_batch("causal", random_tokens(2, 9))
    assert run(model, batch._replace(targets=np.full_like(batch.targets, IGNORE))) == [0.0]
    assert_equal_weights(model, make_model())


def test_what_several_processes_sum_is_the_loss_the_count_and_every_gradient():
    batch, alone, twice = make_batch("causal", random_tokens(2, 9)), make_model(), make_model()

    def add_up(tensors):  # over two processes that hold the same
        sizes.extend(tensor.shape for tensor in tensors)
        for tensor in tensors:
            tensor *= 2

    sizes = []
    assert run(alone, batch, clip=0.1) == run(twice, batch, clip=0.1, add_up=add_up)
    assert len(sizes) == 1 + len(list(twice.parameters())) and sizes[0] == (2,)
    assert_equal_weights(alone, twice)


def test_dropout_is_a_function_of_seed_step_and_rank_and_resuming_needs_the_step_alone():
    def losses(others_draw, start=0, **how):
        torch.manual_seed(others_draw)
        model = make_model(dropout=0.3).eval()  # whatever an evaluation left
        batch = make_batch("causal", random_tokens(4, 9))
        return run(model, batch, 40, rate=0.0, start=start, **how)  # only dropout moves

    whole = losses(1)
    assert len(set(whole)) == 40 and losses(2) == whole and losses(3, start=9) == whole[9:]
    assert losses(1, seed=5) != whole != losses(1, rank=1)


def test_each_step_has_its_number_its_batch_and_its_rate():
    model, seen = make_model(), []
    optimizers = optimizers_of(model, rate=0.1)

    def batch(step):
        seen.append((step, optimizers[0].param_groups[0]["lr"]))
        return [tensors(make_batch("causal", random_tokens(2, 9)))]

    loss = functools.partial(language_model_nll, model)
    trained = train(model, loss, batch, optimizers, Plan(6, 0.5, 0.4, seed=0), start=1)
    assert [step for step, _ in trained] == [2, 3, 4, 5, 6]
    assert seen == [(step, 0.1 * schedule(step, 6, 0.5, 0.4)) for step in range(1, 6)]
    assert Plan(1, 0, 0, 0).clip == 1.0
