"""How good is it, how sure are we, and does looking change anything?"""

import math
import random

import numpy as np
import pytest
import torch

from minilm.device import Machine
from minilm.evaluation import bytes_per_token, evaluate_language_model
from minilm.metrics import (
    accuracy,
    confusion_matrix,
    macro_f1,
    precision_recall_f1,
    report,
    wilson_interval,
)
from minilm.model import Transformer
from minilm.objectives import LanguageModelLoss, Objective
from minilm.optim import make_optimizers
from minilm.tokenizer import DOC, MASK, Tokenizer
from minilm.training import Plan, StepBatch, Trainer

MACHINE = Machine(torch.device("cpu"), bfloat16=False, why="a test")

# 10 texts of "ham", 5 of "spam", 1 of "eggs"; nothing is ever called "eggs".
CONFUSION = np.array([[8, 2, 0], [1, 4, 0], [1, 0, 0]])


def test_precision_recall_and_f1_by_hand():
    by_hand = [[8 / 10, 8 / 10, 16 / 20], [4 / 6, 4 / 5, 8 / 11], [0, 0, 0]]
    np.testing.assert_allclose(precision_recall_f1(CONFUSION), by_hand)
    assert accuracy(CONFUSION) == pytest.approx(12 / 16)
    assert macro_f1(CONFUSION) == pytest.approx((16 / 20 + 8 / 11 + 0) / 3)


@pytest.mark.parametrize("n_called", [2, 5])
def test_metrics_equal_those_of_scikit_learn(n_called):
    theirs = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(1)
    labels, predicted = rng.integers(0, 5, 200), rng.integers(0, n_called, 200)
    ours = confusion_matrix(labels, predicted, 6)  # the last label never occurs at all
    assert np.array_equal(ours, theirs.confusion_matrix(labels, predicted, labels=range(6)))
    scores = theirs.precision_recall_fscore_support(
        labels, predicted, labels=range(6), zero_division=0
    )
    np.testing.assert_allclose(precision_recall_f1(ours), np.stack(scores[:3], axis=1))
    assert accuracy(ours) == pytest.approx(theirs.accuracy_score(labels, predicted))


@pytest.mark.parametrize("n", [1, 7, 1000])
def test_the_interval_holds_the_share_and_stays_between_0_and_1(n):
    for right in {0, 1, n // 2, n - 1, n}:
        low, high = wilson_interval(right, n)
        assert 0 <= low < high <= 1
        assert low - 1e-12 <= right / n <= high + 1e-12


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_the_interval_holds_the_true_share_in_about_95_of_100_samples(share):
    n = 200
    held = 0.0
    for right in range(n + 1):
        low, high = wilson_interval(right, n)
        if low <= share <= high:
            held += math.comb(n, right) * share**right * (1 - share) ** (n - right)
    assert held == pytest.approx(0.95, abs=0.015)


def test_the_report_has_a_row_for_each_label_with_its_own_numbers():
    head, columns, *rows = report(CONFUSION, ["ham", "spam", "eggs"]).splitlines()
    assert "accuracy 75.0 %" in head and "16 texts" in head
    assert columns.split()[:3] == ["precision", "recall", "F1"]
    assert [row.replace("%", "").split() for row in rows] == [
        ["ham", "80.0", "80.0", "80.0", "8", "2", "0"],
        ["spam", "66.7", "80.0", "72.7", "1", "4", "0"],
        ["eggs", "0.0", "0.0", "0.0", "1", "0", "0"],
    ]


def test_the_bytes_of_the_tokens_add_up_to_the_bytes_of_the_text():
    text = "the cat's hat, née Ünïcode 猫 " * 3
    tokenizer = Tokenizer.train([[text]], 280)
    token_bytes = bytes_per_token(tokenizer)
    assert token_bytes[tokenizer.encode(text)].sum() == len(text.encode("utf-8"))
    assert token_bytes[[MASK, DOC]].sum() == 0 and len(token_bytes) == tokenizer.vocab_size


def some_windows(n):
    return np.random.default_rng(2).integers(3, 40, (n, 13))


def evaluate(model, windows, objective="hybrid", batch_size=32, token_bytes=None):
    if token_bytes is None:
        token_bytes = np.ones(40)
    objective = Objective(objective, 40, seed=0)
    return evaluate_language_model(model, objective, windows, MACHINE, token_bytes, batch_size)


def test_bits_per_byte_divide_the_loss_of_all_tokens_by_the_bytes_of_all_tokens(make_model):
    model, windows = make_model(), some_windows(6)
    model.embedding.weight.data.zero_()  # every word is as likely as any other: log2 40 bits
    token_bytes = np.arange(40) % 7
    values = evaluate(model, windows, token_bytes=token_bytes)
    targets = windows[:, 1:]
    by_hand = targets.size * math.log2(40) / token_bytes[targets].sum()
    assert values["bits_per_byte"] == pytest.approx(by_hand, rel=1e-6)
    assert values["causal_loss"] == pytest.approx(math.log(40), rel=1e-6)
    assert values["masked_loss"] == pytest.approx(math.log(40), rel=1e-6)


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_a_validation_loss_is_a_mean_over_targets_not_over_batches(make_model, batch_size):
    values = evaluate(make_model(), some_windows(5), "causal", batch_size)
    assert values == pytest.approx(evaluate(make_model(), some_windows(5), "causal"), rel=1e-5)


def test_masked_accuracy_is_the_share_of_hidden_words_that_were_the_first_choice(make_model):
    model, windows = make_model(), some_windows(60)
    (task,) = Objective("masked", 40, seed=0).evaluation_tasks(windows, 0).values()
    best = model.logits(model(torch.from_numpy(task.inputs), causal=False)).argmax(-1).numpy()
    right = (best == task.targets).sum()
    assert 0 < right < task.count
    values = evaluate(model, windows, "masked", batch_size=60)
    assert values["masked_accuracy"] == right / task.count


def weights_after_training(model, evaluating: bool):
    """Four steps with dropout; where `evaluating`, with an evaluation before each of them."""
    objective, windows = Objective("hybrid", 40, seed=0), some_windows(8)

    def batch(step):
        if evaluating:
            evaluate(model, windows)
        task = objective.task(windows, step, rate=0.3)
        arrays = task.inputs, task.targets, task.causal
        return StepBatch([arrays], task.count, task.inputs.size)

    optimizers = make_optimizers(model, "adamw", 0.01, weight_decay=0.1)
    plan = Plan(4, warmup=0, cooldown=0, evaluate_every=4, seed=0)
    trainer = Trainer(model, LanguageModelLoss(model), optimizers, batch, plan, MACHINE)
    for step in range(4):
        trainer.step(step)
    return model.state_dict()


def test_evaluating_changes_nothing_in_the_training(make_model):
    config = make_model(dropout=0.2).config
    with_it, without = (weights_after_training(Transformer(config), e) for e in (True, False))
    for name, weight in without.items():
        assert torch.equal(weight, with_it[name]), name


def test_evaluating_moves_no_global_generator(make_model):
    def states():
        _, numpy_state, *_ = np.random.get_state()
        return torch.get_rng_state().tolist(), numpy_state.tolist(), random.getstate()

    model = make_model(dropout=0.2)
    before = states()
    evaluate(model, some_windows(8))
    assert states() == before
